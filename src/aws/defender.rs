//! Device Defender: what a thing tells about itself, so that what is odd shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use paquebot_protocols::dialect::DialectError;
use paquebot_protocols::dialect::aws::defender as wire;
use paquebot_protocols::dialect::aws::provisioning::PayloadFormat;

use super::requests::{Call, REQUEST_DEADLINE, RequestError, Requests};
use crate::device::Device;

pub use wire::{
    CustomMetric, DefenderRejection, DefenderReport, ListeningPort, NetworkStats, TcpConnection,
};

/// Why a report did not count.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DefenderError {
    /// No answer came.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The service refused.
    #[error(transparent)]
    Rejected(#[from] DefenderRejection),
}

impl From<DialectError> for DefenderError {
    fn from(error: DialectError) -> Self {
        Self::Request(error.into())
    }
}

/// Reports of a thing's metrics. Cheap to clone; clones count the same reports.
///
/// The service takes one report in five minutes; the caller keeps the time.
///
/// ```no_run
/// use paquebot::aws::{Defender, DefenderError, DefenderReport, NetworkStats};
///
/// # async fn example(link: &paquebot::Link) -> Result<(), DefenderError> {
/// let defender = Defender::of(&link.device())?;
/// let network = NetworkStats { bytes_in: 29_358, bytes_out: 26_485, packets_in: 10, packets_out: 12 };
/// defender.report(&DefenderReport { network: Some(network), ..DefenderReport::default() }).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Defender {
    thing: Arc<str>,
    format: PayloadFormat,
    deadline: Duration,
    requests: Requests<Result<(), DefenderRejection>>,
    last_id: Arc<AtomicU64>,
}

impl Defender {
    /// Those of a device, in JSON; its name is the thing's.
    ///
    /// # Errors
    /// The name is none of a thing.
    pub fn of(device: &Device) -> Result<Self, DefenderError> {
        Self::with_format(device, PayloadFormat::Json)
    }

    /// The same in another format.
    ///
    /// # Errors
    /// As [`Defender::of`].
    pub fn with_format(device: &Device, format: PayloadFormat) -> Result<Self, DefenderError> {
        let thing: Arc<str> = device.id().as_str().into();
        wire::reply_filters(&thing, format)?;
        let asked = Arc::clone(&thing);
        let requests = Requests::new(device.link(), move |topic, payload| {
            let reply = wire::read(&asked, format, topic, payload)?;
            Some((reply.report_id?.to_string(), reply.answer))
        });
        Ok(Self {
            thing,
            format,
            deadline: REQUEST_DEADLINE,
            requests,
            last_id: Arc::default(),
        })
    }

    /// When a report without an answer ends. Default: [`REQUEST_DEADLINE`](super::REQUEST_DEADLINE).
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sends a report and waits until the service has taken it; gives its number. Numbers are seconds since 1970, and
    /// rise by one where reports come faster, so that they go on rising after the end of the process.
    ///
    /// # Errors
    /// See [`DefenderError`]. Nothing waits for a connection.
    pub async fn report(&self, report: &DefenderReport) -> Result<u64, DefenderError> {
        let id = self.next_id();
        let call = Call {
            key: id.to_string(),
            replies: wire::reply_filters(&self.thing, self.format)?,
            message: wire::render(&self.thing, self.format, report, id)?,
            deadline: self.deadline,
        };
        self.requests.ask(call).await??;
        Ok(id)
    }

    fn next_id(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        let next = |last: u64| now.max(last + 1);
        let last = self
            .last_id
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(next(last))
            });
        next(last.unwrap_or_default())
    }
}
