//! Directive table of the module: the directives of `location.rs` and of `main.rs`.

use super::location::LocationSettings;
use super::main::MainSettings;
use super::settings::Settings;
use crate::nginx::sys::ngx_command_t;

const LENGTH: usize = LocationSettings::COMMANDS.len() + MainSettings::COMMANDS.len() + 1;

/// Directive table of the module, with the empty entry that ends it.
pub const DIRECTIVES: [ngx_command_t; LENGTH] = {
    let mut table = [ngx_command_t::empty(); LENGTH];
    let (locations, rest) = table.split_at_mut(LocationSettings::COMMANDS.len());
    locations.copy_from_slice(LocationSettings::COMMANDS);
    rest.split_at_mut(MainSettings::COMMANDS.len()).0.copy_from_slice(MainSettings::COMMANDS);
    table
};
