//! Kills of the supervisor's children and reloads at random moments, under load: no request may be lost but those in a
//! process that was killed, none may run twice, and nothing may be left. Ten seconds of it are a test, `SOAK_GROUPS=1 make
//! soak` are minutes.

use crate::harness::{
    COUNTED, CountedLoad, GroupNginx, Process, SeededRng, Site, in_repository, two_users, wait_for, with_record,
};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Groups: one of several workers, one that gets another environment from reload to reload, so that its instances are replaced,
/// one that grows and shrinks, one without threads, and one that starts on demand.
const GROUPS: [&str; 5] = ["many", "changed", "scaled", "inline", "idle"];

/// As root, some have users of their own.
fn groups(generation: usize) -> String {
    let [first, second] = match two_users() {
        Some(users) => users.map(|user| format!("user={}", user.name)),
        None => [String::new(), String::new()],
    };
    format!(
        "wsgi_process_group many chdir=@prefix@ processes=2 threads=4 {first};
wsgi_process_group changed chdir=@prefix@ env=GENERATION={generation} threads=4 {second};
wsgi_process_group scaled chdir=@prefix@ processes=1:3 threads=1;
wsgi_process_group inline chdir=@prefix@ threads=off {first};
wsgi_process_group idle chdir=@prefix@ idle_timeout=1s {second};
"
    )
}

#[derive(Clone, Copy, Debug)]
enum Event {
    KillWorker,
    KillMaster,
    KillInstance,
    Reload,
    Nothing,
}

/// A seed that fails can be tried again.
fn seed() -> u64 {
    std::env::var("SOAK_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(11)
}

#[test]
fn kills_and_reloads_lose_only_running_calls() {
    soak(Duration::from_secs(10), seed());
}

#[test]
#[ignore = "takes minutes: SOAK_GROUPS=1 make soak"]
fn minutes_of_kills_and_reloads_lose_only_running_calls() {
    let minutes = std::env::var("SOAK_MINUTES").ok().filter(|text| !text.is_empty());
    let seconds = 60 * minutes.map_or(10, |text| text.parse().expect("SOAK_MINUTES"));
    // Parts, as the record of the calls of hours would be long.
    let part = 60;
    for number in 0..seconds / part {
        println!("minute {}", number + 1);
        soak(Duration::from_secs(part), seed() + number);
    }
}

fn soak(length: Duration, seed: u64) {
    println!("seed {seed}");
    let mut rng = SeededRng::new(seed);
    let app = format!("{COUNTED}\napplication = counted\n");
    let site = with_record(Site::plain())
        .errors_expected()
        // The name of the directive, which the harness looks for: wsgi_process_group.
        .http("include groups.conf; # wsgi_process_group")
        .file("conf/groups.conf", &groups(0));
    let site = GROUPS.iter().fold(site, |site, name| {
        site.file(&format!("{name}.py"), &app)
            .location(&format!("/{name}/"), &format!("wsgi_pass {name}.py process={name};"))
    });
    let mut nginx = GroupNginx::start(site);
    let supervisor = nginx.supervisor();
    let descriptors = Process(supervisor).descriptors();
    let paths = GROUPS.map(|name| format!("/{name}/"));
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    // The last is asked now and then only.
    let load = CountedLoad::start(&nginx, &paths[..4], 3, seed);
    let mut occasional = Some(CountedLoad::start(&nginx, &paths[4..], 1, seed));
    let mut occasional_stats = Vec::new();
    let (mut killed, mut generation, mut done) = (Vec::new(), 0, [0; 4]);
    let mut backoff = Backoff::default();
    let start = Instant::now();
    while start.elapsed() < length {
        let event = rng.choose(&[
            Event::KillWorker,
            Event::KillWorker,
            Event::KillMaster,
            Event::KillInstance,
            Event::Reload,
            Event::Nothing,
        ]);
        let group = rng.choose(&GROUPS);
        match event {
            Event::KillWorker => {
                let workers = nginx.group_workers(group);
                if !workers.is_empty() {
                    kill(&nginx, &[rng.choose(&workers)], &mut killed, &mut done[0]);
                }
            }
            Event::KillMaster | Event::KillInstance if !backoff.allows(group) => {}
            Event::KillMaster => {
                let masters = nginx.masters(group);
                if !masters.is_empty() {
                    kill(&nginx, &[rng.choose(&masters)], &mut killed, &mut done[1]);
                }
            }
            Event::KillInstance => {
                let all = [nginx.masters(group), nginx.group_workers(group)].concat();
                kill(&nginx, &all, &mut killed, &mut done[2]);
            }
            Event::Reload => {
                generation += 1;
                nginx.write("conf/groups.conf", &groups(generation));
                nginx.reload();
                done[3] += 1;
            }
            Event::Nothing => match occasional.take() {
                Some(load) => occasional_stats.push(load.stop()),
                None => occasional = Some(CountedLoad::start(&nginx, &paths[4..], 1, seed)),
            },
        }
        // Back-off included, the groups are to serve meanwhile.
        std::thread::sleep(Duration::from_millis(20 + rng.below(700)));
    }
    let stats = load.stop();
    occasional_stats.extend(occasional.map(CountedLoad::stop));
    println!(
        "{} good, {} failed; supervisor {} KiB; {} workers, {} masters, {} instances killed, {} reloads",
        stats.good.len(),
        stats.failed.len(),
        Process(supervisor).memory() / 1024,
        done[0],
        done[1],
        done[2],
        done[3]
    );
    nginx.expect_errors(" exited on signal 9");
    assert!(stats.good.len() > 100, "{} good", stats.good.len());
    stats.assert_only_lost_in(&killed, &nginx);
    for stats in occasional_stats {
        stats.assert_only_lost_in(&killed, &nginx);
    }
    // All serve again, by the same supervisor; its end leaves nothing: GroupNginx looks.
    for path in paths {
        nginx.get(&format!("{path}?at-last{}", path.replace('/', "-"))).expect(200);
    }
    assert_eq!(nginx.supervisor(), supervisor);
    // It has one more for each instance: those that grew or started on demand.
    wait_for("few descriptors of the supervisor", || {
        (Process(supervisor).descriptors() <= descriptors + GROUPS.len()).then_some(())
    });
    // The last one may have stopped again.
    for name in &GROUPS[..4] {
        wait_for(&format!("the group {name}"), || (!nginx.group_workers(name).is_empty()).then_some(()));
    }
}

/// The masters of each group that were killed soon after the one before, and when the last one was. An instance that ended
/// too often in a short time is started so late that clients give up.
#[derive(Default)]
struct Backoff(HashMap<&'static str, (Instant, u32)>);

impl Backoff {
    fn allows(&mut self, group: &'static str) -> bool {
        let now = Instant::now();
        let (last, quick) = self.0.get(group).copied().unwrap_or((now, 0));
        let is_quick = now - last < Duration::from_secs(13);
        if is_quick && quick >= 2 {
            return false;
        }
        self.0.insert(group, (now, if is_quick { quick + 1 } else { 0 }));
        true
    }
}

fn kill(nginx: &GroupNginx, pids: &[i32], killed: &mut Vec<i32>, count: &mut usize) {
    for pid in pids {
        // Not one that has ended meanwhile: its number may be that of another process.
        if nginx.processes_of_groups().iter().any(|(each, _)| each == pid) {
            Process(*pid).signal(libc::SIGKILL);
            killed.push(*pid);
        }
    }
    *count += 1;
}

#[test]
fn the_script_runs_the_soak_of_groups() {
    let text = std::fs::read_to_string(in_repository("tools/soak.sh")).unwrap();
    for name in ["soak::nothing_is_lost_and_nothing_grows", "process_group_soak::minutes_of_kills"] {
        assert!(text.contains(name), "{name}");
    }
}
