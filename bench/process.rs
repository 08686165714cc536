//! What a process takes, as Linux tells it in `/proc`.

use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Clock ticks of `/proc` in a second, the same on every Linux.
const TICKS: f64 = 100.0;

/// How often memory is looked at.
const PERIOD: Duration = Duration::from_millis(50);

/// A process on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    id: u32,
}

impl Process {
    /// The process with this number.
    pub(crate) fn new(id: u32) -> Self {
        Self { id }
    }

    /// This process.
    pub(crate) fn own() -> Self {
        Self { id: std::process::id() }
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(self) -> Option<u64> {
        resident_of(&self.read("status")?)
    }

    /// Processor time of all its threads, in user and kernel mode.
    pub(crate) fn cpu_seconds(self) -> Option<f64> {
        cpu_seconds_of(&self.read("stat")?)
    }

    fn read(self, file: &str) -> Option<String> {
        std::fs::read_to_string(PathBuf::from(format!("/proc/{}", self.id)).join(file)).ok()
    }
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn cpu_seconds_of(stat: &str) -> Option<f64> {
    // The name of the program may hold anything, also spaces; the fields behind it begin with the third.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().ok());
    Some(ticks.collect::<Option<Vec<f64>>>()?.iter().sum::<f64>() / TICKS)
}

/// Looks at a process's memory until it is asked for the most that it has seen.
pub(crate) struct Watch {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<u64>,
}

impl Watch {
    /// Starts to look.
    pub(crate) fn start(process: Process) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            loop {
                peak = peak.max(process.resident().unwrap_or(0));
                if stopped.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout) {
                    return peak;
                }
            }
        });
        Self { stop, thread }
    }

    /// The most resident memory that was seen, in bytes.
    pub(crate) fn peak(self) -> u64 {
        let _ = self.stop.send(());
        self.thread.join().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(resident_of("Name:\tx\nVmHWM:\t   90 kB\nVmRSS:\t   12 kB\n"), Some(12 * 1024));
        assert_eq!(resident_of("Name:\tx\n"), None);
    }

    #[test]
    fn processor_time_is_found_behind_a_name_with_spaces_and_brackets() {
        let stat = "7 (a) (b c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 8 0 100 1 1";
        assert_eq!(cpu_seconds_of(stat), Some(3.0));
        assert_eq!(cpu_seconds_of("7 (a"), None);
    }
}
