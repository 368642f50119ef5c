//! Directive table of the module: the directives of `location.rs`, of `main.rs` and of `internal.rs`.

use super::internal;
use super::location::LocationSettings;
use super::main::MainSettings;
use super::settings::Settings;
use crate::nginx::sys::ngx_command_t;

const LENGTH: usize = LocationSettings::COMMANDS.len() + MainSettings::COMMANDS.len() + internal::COMMANDS.len() + 1;

/// Directive table of the module, with the empty entry that ends it.
pub const DIRECTIVES: [ngx_command_t; LENGTH] = {
    let mut table = [ngx_command_t::empty(); LENGTH];
    let (locations, rest) = table.split_at_mut(LocationSettings::COMMANDS.len());
    locations.copy_from_slice(LocationSettings::COMMANDS);
    let (mains, rest) = rest.split_at_mut(MainSettings::COMMANDS.len());
    mains.copy_from_slice(MainSettings::COMMANDS);
    rest.split_at_mut(internal::COMMANDS.len()).0.copy_from_slice(&internal::COMMANDS);
    table
};
