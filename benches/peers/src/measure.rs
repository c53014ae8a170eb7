//! Clocks, memory, and what is made of repeated measurements.

use std::time::{Duration, Instant};

use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::Failure;

/// The CPU time of a process, all of its threads together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessClock(ClockId);

impl ProcessClock {
    /// Of another process, which must not have ended.
    pub(crate) fn of(pid: u32) -> Result<Self, Failure> {
        Ok(Self(clock_getcpuclockid(Pid::from_raw(pid.try_into()?))?))
    }

    /// Of this process.
    pub(crate) const fn own() -> Self {
        Self(ClockId::CLOCK_PROCESS_CPUTIME_ID)
    }

    /// Of the thread that asks.
    pub(crate) const fn of_thread() -> Self {
        Self(ClockId::CLOCK_THREAD_CPUTIME_ID)
    }

    /// What it has used up to now.
    pub(crate) fn now(self) -> Result<Duration, Failure> {
        let nanoseconds = self.0.now()?.num_nanoseconds();
        Ok(Duration::from_nanos(nanoseconds.try_into()?))
    }
}

/// A moment of a measurement: when, how many messages so far, how much CPU client and peer used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    at: Instant,
    messages: u64,
    cpu: Duration,
    peer_cpu: Duration,
}

impl Mark {
    /// This moment, on the peer's thread.
    pub(crate) fn now(messages: u64, clock: ProcessClock) -> Result<Self, Failure> {
        Ok(Self {
            at: Instant::now(),
            messages,
            cpu: clock.now()?,
            peer_cpu: ProcessClock::of_thread().now()?,
        })
    }

    /// How long ago it was.
    pub(crate) fn elapsed(&self) -> Duration {
        self.at.elapsed()
    }

    /// Thousands of messages a second, and nanoseconds of client CPU a message, from `start` until here.
    pub(crate) fn since(&self, start: &Self) -> Result<Sample, Failure> {
        let messages = self.messages - start.messages;
        if messages == 0 {
            return Err("not one message came while it was measured".into());
        }
        let messages = messages as f64;
        let seconds = (self.at - start.at).as_secs_f64();
        let peer = (self.peer_cpu - start.peer_cpu).as_secs_f64() / seconds;
        Ok(Sample::default()
            .with(Column::Rate, messages / seconds / 1e3)
            .with(Column::PeerShare, peer * 100.0)
            .with(
                Column::Cpu,
                (self.cpu - start.cpu).as_nanos() as f64 / messages,
            ))
    }
}

/// What a measurement can tell; a row shows some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Column {
    /// Thousands of messages a second, as the peer counted them.
    Rate,
    /// Nanoseconds of CPU of the client's process a message.
    Cpu,
    /// Nanoseconds to encode a packet.
    Encode,
    /// Nanoseconds to decode a packet.
    Decode,
    /// Messages that never reached the user's handler, in percent.
    Lost,
    /// How much of its core the peer had, in percent: less than nearly all tells that the machine was not quiet.
    PeerShare,
    /// Connections a second, as the peer counted them.
    Connects,
    /// Microseconds of CPU of the client's process a connection.
    ConnectCpu,
    /// KiB of resident memory an idle link.
    Memory,
}

impl Column {
    /// The head of its column in a table.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Rate => "k msg/s",
            Self::Cpu => "client ns CPU/msg",
            Self::Encode => "encode ns",
            Self::Decode => "decode ns",
            Self::Lost => "lost %",
            Self::PeerShare => "peer's share of its core %",
            Self::Connects => "connects/s",
            Self::ConnectCpu => "client µs CPU/connect",
            Self::Memory => "KiB/link",
        }
    }

    /// Whether tables and plots show how good others are beside paquebot.
    pub(crate) const fn is_compared(self) -> bool {
        match self {
            Self::Rate | Self::Encode | Self::Decode | Self::Connects | Self::Memory => true,
            Self::Cpu | Self::Lost | Self::PeerShare | Self::ConnectCpu => false,
        }
    }

    /// What the same costs the client in CPU time, for a rate.
    pub(crate) const fn cpu(self) -> Option<Self> {
        match self {
            Self::Rate => Some(Self::Cpu),
            Self::Connects => Some(Self::ConnectCpu),
            _ => None,
        }
    }

    /// Whether a larger figure is the better one.
    pub(crate) const fn is_more_better(self) -> bool {
        matches!(self, Self::Rate | Self::Connects)
    }
}

/// The figures of one measurement.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Sample(Vec<(Column, f64)>);

impl Sample {
    /// The same with one more figure.
    pub(crate) fn with(mut self, column: Column, value: f64) -> Self {
        self.0.push((column, value));
        self
    }

    /// The figures of both.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// A figure, if this measurement has it.
    pub(crate) fn value(&self, column: Column) -> Option<f64> {
        self.0
            .iter()
            .find_map(|(name, value)| (*name == column).then_some(*value))
    }
}

/// Median and range of the rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Of all values; `None` without any.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }
}

/// Resident memory of this process in KiB.
pub(crate) fn resident_kib() -> Result<f64, Failure> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let resident = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Rss:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .ok_or("/proc/self/smaps_rollup has no Rss")?;
    Ok(resident.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_two_in_the_middle() {
        let summary = Summary::of(vec![4.0, 1.0, 3.0, 2.0]);
        let summary = summary.map(|summary| (summary.min, summary.median, summary.max));
        assert_eq!(summary, Some((1.0, 2.5, 4.0)));
        assert!(Summary::of(Vec::new()).is_none());
    }
}
