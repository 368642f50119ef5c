//! The plan: all that the master tells the supervisor about the configured groups.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::conf::group_location::GroupLog;
pub use crate::os::spawn::ProcessPlan;

/// All process groups of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Directory of the slot, as [`run_directory::claim`](crate::os::run_directory::claim) returns it.
    pub directory: PathBuf,
    /// Group of the front's workers, `None` if the front was not started by root.
    pub front_group: Option<u32>,
    pub groups: Vec<GroupPlan>,
}

/// A process group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPlan {
    pub name: String,
    /// The instance's configuration, without `worker_processes` and `pid`.
    pub configuration: String,
    pub process: ProcessPlan,
    /// Number of workers at the least, from 1.
    pub min: usize,
    /// Number of workers at the most.
    pub max: usize,
    /// Time without a request after which the group is stopped until the next request; `None` keeps it running, and starts
    /// it before the first request.
    pub idle_timeout: Option<Duration>,
    /// Time that running calls have when an instance is told to end.
    pub stop_timeout: Duration,
    /// Number of words of the status board, `None` without `wsgi_status_zone`.
    pub status_words: Option<usize>,
    /// Logs of its applications that the supervisor writes.
    pub logs: Vec<GroupLog>,
}

impl Plan {
    /// Returns the longest time that a group takes to stop.
    pub fn longest_stop(&self) -> Duration {
        self.groups.iter().map(|group| group.stop_timeout).max().unwrap_or_default()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::os::spawn::Identity;

    /// Returns the plan of a group without settings of its own.
    pub fn group(name: &str) -> GroupPlan {
        GroupPlan {
            name: name.to_owned(),
            configuration: "events {}\n".to_owned(),
            process: ProcessPlan {
                program: "/usr/sbin/nginx".into(),
                user: None,
                umask: 0o22,
                chdir: "/".into(),
                environment: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
                nofile: None,
                memory_limit: None,
                no_new_privs: true,
            },
            min: 1,
            max: 1,
            idle_timeout: None,
            stop_timeout: Duration::from_secs(10),
            status_words: None,
            logs: Vec::new(),
        }
    }

    #[test]
    fn a_plan_survives_the_channel() {
        let mut blog = group("blog");
        blog.process.user = Some(Identity { name: "blog".to_owned(), uid: 1000, gid: 1001 });
        blog.process.environment.push(("SECRET".to_owned(), "\"ä\\\n".to_owned()));
        blog.idle_timeout = Some(Duration::from_millis(1500));
        let plan = Plan { directory: "/run/wsgi".into(), front_group: Some(33), groups: vec![blog, group("shop")] };
        let text = serde_json::to_vec(&plan).unwrap();
        assert_eq!(serde_json::from_slice::<Plan>(&text).unwrap(), plan);
        assert_eq!(plan.longest_stop(), Duration::from_secs(10));
    }
}
