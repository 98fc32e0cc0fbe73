//! The daemon itself, as a child process.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use firstlight::admin::Request;
use firstlight::admin::client::{CallError, call};
use firstlight::admin::report::{Sources, Status, Upstream};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::clients::{ask_tcp, ask_udp};
use super::{LOCAL, Lab, eventually};

/// A running daemon; killed by its id at the end.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    /// Whether it leads a process group.
    grouped: bool,
    log: PathBuf,
    socket: PathBuf,
}

impl Daemon {
    /// `firstlight run` on the lab's configuration, with `arguments`.
    pub(crate) fn start(lab: &Lab, arguments: &[&str]) -> Self {
        Self::start_under(lab, &[], arguments)
    }

    /// The same, run by another program: `strace -f ..`.
    pub(crate) fn start_under(lab: &Lab, wrapper: &[&str], arguments: &[&str]) -> Self {
        let log = lab.path("log");
        let mut words = wrapper.iter().copied().chain([env!("CARGO_BIN_EXE_firstlight")]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("run").arg("--config").arg(lab.path("firstlight.toml"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(appending(&log));
        let grouped = !wrapper.is_empty();
        if grouped {
            // A tracer that is killed leaves its tracee behind.
            command.process_group(0);
        }
        let child = command.spawn().unwrap();
        Self { child, grouped, log, socket: lab.path("run/control.sock") }
    }

    /// Waits until the daemon answers a local name over UDP and TCP, which it opens one after the
    /// other; how it failed to, if it did.
    pub(crate) fn serves(&mut self, lab: &Lab) -> Result<(), String> {
        let found = eventually(Duration::from_secs(10), || {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(Err(format!("it ended: {status}\n{}", self.log())));
            }
            for ask in [ask_udp, ask_tcp] {
                ask(lab.dns(), LOCAL.0).filter(|answer| answer.addresses == [LOCAL.1])?;
            }
            Some(Ok(()))
        });
        found.unwrap_or_else(|| Err(format!("no answer in 10 s\n{}", self.log())))
    }

    pub(crate) fn kill(&mut self) {
        if self.grouped && self.child.try_wait().unwrap().is_none() {
            killpg(self.pid(), Signal::SIGKILL).unwrap();
        }
        drop(self.child.kill());
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// The process; with a wrapper, the wrapper's.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Waits for its end by itself.
    pub(crate) fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        eventually(limit, || self.child.try_wait().unwrap())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn call(&self, request: &Request) -> Result<Value, CallError> {
        call(&self.socket, request)
    }

    pub(crate) fn status(&self) -> Status {
        self.ask(&Request::Status)
    }

    pub(crate) fn sources(&self) -> Sources {
        self.ask(&Request::Sources)
    }

    pub(crate) fn upstreams(&self) -> Vec<Upstream> {
        self.ask(&Request::Upstreams)
    }

    /// Waits for a status that fits; the last one and the log, if none came.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        seconds: u64,
        mut fits: impl FnMut(&Status) -> bool,
    ) -> Status {
        let mut last = None;
        let found = eventually(Duration::from_secs(seconds), || {
            let status: Status = self.try_ask(&Request::Status)?;
            let fit = fits(&status);
            last = Some(status.clone());
            fit.then_some(status)
        });
        found.unwrap_or_else(|| panic!("not in {seconds} s: {what}; {last:#?}\n{}", self.log()))
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> T {
        let answer = eventually(Duration::from_secs(5), || self.try_ask(request));
        answer.unwrap_or_else(|| panic!("no answer to {request:?}\n{}", self.log()))
    }

    fn try_ask<T: DeserializeOwned>(&self, request: &Request) -> Option<T> {
        let answer = self.call(request).ok()?;
        Some(serde_json::from_value(answer).unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

fn appending(log: &PathBuf) -> File {
    OpenOptions::new().create(true).append(true).open(log).unwrap()
}
