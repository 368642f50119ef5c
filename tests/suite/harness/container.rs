//! Container of an image, without a container engine: process 1 of a PID namespace, with a network of its own, of which the
//! machine sees nothing, a read-only root file system and an empty /tmp, as the user of the image and without capabilities.

use super::{Conn, Image, Process, Response, in_repository, wait_for};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::fchown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

/// Makes the root a mount point, which can be read-only, and starts the network; then a PID namespace.
const OUTSIDE: &str = "ip link set lo up; mount --bind \"$1\" \"$1\"; exec \"$0\" --pid \"$@\"";

/// Runs inside, as root. Arguments: working directory, user, group, variables and words of the command.
const INSIDE: &str = "mount -o remount,bind,ro /
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /tmp
cd \"$1\"
user=$2 group=$3
shift 3
exec setpriv --reuid \"$user\" --regid \"$group\" --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \\
    env -i HOME=/ \"$@\"";

pub struct Container {
    /// Ends with the container.
    child: Child,
    init: Process,
    image: Arc<Image>,
    network: Arc<File>,
    output: Arc<Mutex<String>>,
    errors: Arc<Mutex<String>>,
}

impl Container {
    /// Starts a container with these variables beside those of the image, and waits until it responds.
    pub fn start(image: &Arc<Image>, variables: &[&str]) -> Container {
        let container = Container::start_at_once(image, variables);
        // The check of the configuration listens too, and closes what has connected.
        wait_for("the container to respond", || {
            assert!(container.init.is_alive(), "the container has ended: {}", container.errors());
            container.responds().ok()
        });
        container
    }

    fn responds(&self) -> std::io::Result<()> {
        let mut stream = self.connect()?;
        stream.write_all(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        stream.read_exact(&mut [0])
    }

    /// The same, but does not wait.
    pub fn start_at_once(image: &Arc<Image>, variables: &[&str]) -> Container {
        let (user, group) = image.settings.user.expect("USER");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--net", "sh", "-euc", OUTSIDE])
            .arg(in_repository("tools/in_debian.sh"))
            .arg(image.root())
            .args(["sh", "-euc", INSIDE, "sh", &image.settings.directory])
            .args([user.to_string(), group.to_string()])
            .args(image.settings.environment.iter().map(|(name, value)| format!("{name}={value}")))
            .args(variables)
            .args(&image.settings.command)
            .stdin(Stdio::null());
        let pipe = || {
            let (reader, writer) = std::io::pipe().unwrap();
            // As container engines do: nginx opens /dev/stdout by its name.
            fchown(&writer, Some(user), Some(group)).unwrap();
            (collected(reader), writer)
        };
        let ((output, stdout), (errors, stderr)) = (pipe(), pipe());
        let child = command.stdout(stdout).stderr(stderr).spawn().expect("run unshare");
        // The command keeps the pipes open.
        drop(command);
        let parent = Process(child.id().cast_signed());
        let init = wait_for("process 1 of the container", || {
            let is_init = |process: &Process| process.status_words("NSpid").last().is_some_and(|number| number == "1");
            Process::all().into_iter().find(|process| process.parent() == Some(parent.0) && is_init(process))
        });
        let network = Arc::new(File::open(format!("/proc/{}/ns/net", init.0)).unwrap());
        Container { child, init, image: image.clone(), network, output, errors }
    }

    /// Process 1.
    pub fn init(&self) -> Process {
        self.init
    }

    /// A path of the container, as long as it runs.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.init.0)).join(path.trim_start_matches('/'))
    }

    /// Standard output so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Standard error so far.
    pub fn errors(&self) -> String {
        self.errors.lock().unwrap().clone()
    }

    /// A function that connects to the container, for as long as its network exists.
    pub fn connector(&self) -> impl Fn() -> std::io::Result<TcpStream> + Send + Sync + 'static {
        let (network, port) = (self.network.clone(), self.image.settings.port);
        move || {
            let connect = || {
                // Of this thread alone, which ends. The socket stays in that network.
                setns(&*network, CloneFlags::CLONE_NEWNET)?;
                TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            };
            thread::scope(|scope| scope.spawn(connect).join().unwrap())
        }
    }

    pub fn connect(&self) -> std::io::Result<TcpStream> {
        self.connector()()
    }

    /// A connection on which a request was sent.
    pub fn ask(&self, path: &str) -> Conn {
        let mut conn = Conn::over(self.connect().expect("connect to the container"));
        conn.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        conn
    }

    pub fn get(&self, path: &str) -> Response {
        self.ask(path).response()
    }

    /// Returns whether the health check of the image succeeds.
    pub fn is_healthy(&self) -> bool {
        self.run(&self.image.settings.health_check).success()
    }

    /// Runs a command in the container, as its user.
    pub fn run(&self, words: &[String]) -> ExitStatus {
        let (user, group) = self.image.settings.user.unwrap();
        Command::new("nsenter")
            .args(["--target", &self.init.0.to_string(), "--mount", "--net", "--pid", "--root", "--wd"])
            .args(["setpriv", "--reuid", &user.to_string(), "--regid", &group.to_string(), "--clear-groups"])
            .args(["env", "-i"])
            .args(self.image.settings.environment.iter().map(|(name, value)| format!("{name}={value}")))
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("run nsenter")
    }

    /// Sends the stop signal of the image.
    pub fn stop(&self) {
        assert_eq!(self.image.settings.stop_signal, "SIGQUIT");
        self.init.signal(libc::SIGQUIT);
    }

    /// Waits for the end of process 1; returns its status.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the end of the container", || self.child.try_wait().unwrap())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // All of its processes end with process 1.
        self.init.signal(libc::SIGKILL);
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("---- output ----\n{}---- errors ----\n{}", self.output(), self.errors());
        }
    }
}

/// Collects what comes out of a pipe.
fn collected(mut reader: PipeReader) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let collected = text.clone();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            collected.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    });
    text
}
