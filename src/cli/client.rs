//! What `paquebot pub` and `paquebot sub` have in common: the flags that say where to connect to and as
//! whom, and the link that follows from them.

use std::ffi::OsString;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use paquebot::{Fleet, Link, LinkBuilder, StartError};
use paquebot_protocols::mqtt::{self, Properties, QoS, Topic, Version, Will};

use super::CommandError;
use super::voyage::{INTERRUPTED, Signals};
pub(super) use place::Place;
use platform::PlatformFlag;
use properties::Properties as PropertyFlags;
pub(super) use server::ServerArgs;
pub(super) use watch::{Change, Watch};

mod headers;
mod place;
mod platform;
mod properties;
mod proxy;
mod raw;
mod server;
mod watch;

/// The largest packet of MQTT: what a client takes that was told nothing else.
const PACKET_BYTES_MAX: u32 = 268_435_460;

/// The exit status when the time is up, mosquitto's.
pub(super) const TIMED_OUT: u8 = 27;

/// A server that has not answered for so long is said to be waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long the goodbye may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where to connect to, as whom, and how the session is to be.
#[derive(Debug, Args)]
pub(super) struct ClientArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Client identifier [default: a random one]
    #[arg(short, long, value_name = "ID", allow_hyphen_values = true)]
    id: Option<String>,
    /// Client identifier that begins so and ends with the process id
    #[arg(short = 'I', long, value_name = "PREFIX", allow_hyphen_values = true)]
    #[arg(conflicts_with = "id")]
    id_prefix: Option<String>,
    /// Keep the session on the server after leaving; needs -i
    #[arg(short = 'c', long)]
    disable_clean_session: bool,
    /// MQTT 5: seconds the server keeps the session, -1 for ever [default: 0, with -c -1]
    #[arg(short = 'x', long, value_name = "SECONDS", value_parser = session_expiry)]
    #[arg(allow_negative_numbers = true)]
    session_expiry_interval: Option<u32>,
    #[command(flatten)]
    properties: PropertyFlags,
    /// Quality of service: 0, 1 or 2
    #[arg(short, long, default_value = "0", value_parser = quality_of_service)]
    pub(super) qos: QoS,
    /// Keep trying when the first connection does not come about
    #[arg(long)]
    retry: bool,
    /// Tell on standard error what happens to the connection
    #[arg(short, long)]
    debug: bool,
    /// Say nothing of what goes wrong after the start; the exit status tells
    #[arg(long)]
    quiet: bool,

    /// Topic of the message the server publishes if this client is lost
    #[arg(long, value_name = "TOPIC", help_heading = "Will")]
    will_topic: Option<String>,
    /// Its payload [default: empty]
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Will",
        requires = "will_topic"
    )]
    #[arg(allow_hyphen_values = true)]
    will_payload: Option<OsString>,
    /// Its quality of service [default: 0]
    #[arg(
        long,
        value_name = "QOS",
        help_heading = "Will",
        requires = "will_topic"
    )]
    #[arg(value_parser = quality_of_service)]
    will_qos: Option<QoS>,
    /// Have the server keep it for later subscribers
    #[arg(long, help_heading = "Will", requires = "will_topic")]
    will_retain: bool,
}

/// Which command the flags were given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Publish,
    Subscribe,
}

/// Limits of the link that depend on what it is to do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sizes {
    pub(super) inflight_max: Option<u16>,
    pub(super) inbox_max: Option<usize>,
}

/// A checked command line: nothing in it can fail but the world.
#[derive(Debug)]
pub(super) struct Client {
    fleet: Fleet,
    builder: LinkBuilder,
    watch: Watch,
    /// Of `-L`.
    pub(super) topic: Option<String>,
    /// Of `-D publish`.
    pub(super) publish_properties: Properties,
    pub(super) version: Version,
    platform: PlatformFlag,
}

impl ClientArgs {
    /// Checks the flags and loads their files. Nothing is connected yet.
    pub(super) fn prepare(&self, purpose: Purpose, sizes: Sizes) -> Result<Client, CommandError> {
        let place = self.server.place()?;
        place.check_qos("-q", self.qos)?;
        place.check_qos("--will-qos", self.will_qos.unwrap_or(QoS::AtMostOnce))?;
        let set = self.properties.read(purpose)?;
        let version = self.chosen_version(!set.is_empty())?;
        let fleet = Fleet::builder()
            .workers(1)
            .start()
            .map_err(|error| CommandError::Failed(error.to_string()))?;
        let connect = &set.connect;
        let dialect = place.platform.dialect();
        let mut group = self
            .server
            .set(fleet.group("client"), &place, dialect)?
            .version(version)
            .clean_start(!self.disable_clean_session)
            .session_expiry(self.session_expiry(version, connect.session_expiry_interval)?)
            .packet_size_max(connect.maximum_packet_size.unwrap_or(PACKET_BYTES_MAX))
            .hold_qos0(true);
        if let Some(maximum) = connect.receive_maximum {
            group = group.receive_maximum(maximum);
        }
        if let Some(maximum) = sizes.inflight_max {
            group = group.inflight_max(maximum).untold_qos2_max(maximum);
        }
        if let Some(maximum) = sizes.inbox_max {
            group = group.inbox_max(maximum);
        }
        let mut builder = group
            .build()
            .and_then(|group| group.application("client"))
            .map_err(|error| CommandError::Usage(error.to_string()))?
            .client_id(self.client_id()?);
        if let Some(will) = self.will(set.will)? {
            builder = builder.will(will);
        }
        Ok(Client {
            fleet,
            builder,
            watch: Watch::new(self.retry, self.debug, self.quiet, version),
            topic: place.topic,
            publish_properties: set.publish,
            version,
            platform: place.platform,
        })
    }

    fn chosen_version(&self, has_properties: bool) -> Result<Version, CommandError> {
        match (self.server.version, has_properties) {
            (Some(Version::V311), true) => Err(usage("-D needs MQTT 5; leave -V out or say -V 5")),
            (None, true) => Ok(Version::V5),
            (version, _) => Ok(version.unwrap_or(Version::V311)),
        }
    }

    fn session_expiry(
        &self,
        version: Version,
        property: Option<u32>,
    ) -> Result<Option<Duration>, CommandError> {
        let asked = self.session_expiry_interval.or(property);
        if asked.is_some() && version == Version::V311 {
            return Err(usage(
                "-x needs MQTT 5 (-V 5); with 3.1.1 the server keeps a session as long as -c is given",
            ));
        }
        let seconds = match asked {
            Some(seconds) => seconds,
            None if self.disable_clean_session => u32::MAX,
            None => 0,
        };
        if seconds == u32::MAX && self.id.is_none() {
            return Err(usage(
                "a session that does not end needs a client identifier (-i), or nobody could resume it",
            ));
        }
        Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
    }

    /// 23 characters at the most: more a server of MQTT 3.1.1 may refuse `[MQTT-3.1.3-5]`.
    fn client_id(&self) -> Result<String, CommandError> {
        if let Some(prefix) = &self.id_prefix {
            return Ok(format!("{prefix}{}", std::process::id()));
        }
        match &self.id {
            Some(id) if id.is_empty() && self.disable_clean_session => {
                Err(usage("-c needs a client identifier (-i) that is not empty"))
            }
            Some(id) => Ok(id.clone()),
            None => Ok((0..14)
                .map(|_| fastrand::alphanumeric())
                .fold("paquebot-".to_owned(), |id, c| {
                    id + c.encode_utf8(&mut [0; 4])
                })),
        }
    }

    fn will(&self, properties: Properties) -> Result<Option<Will>, CommandError> {
        let Some(topic) = &self.will_topic else {
            if properties.is_empty() {
                return Ok(None);
            }
            return Err(usage("-D will needs --will-topic"));
        };
        let topic = Topic::new(topic.as_str())
            .map_err(|error| usage(format!("--will-topic {topic:?}: {error}")))?;
        let payload = self.will_payload.clone().unwrap_or_default();
        Ok(Some(Will {
            qos: self.will_qos.unwrap_or(QoS::AtMostOnce),
            retain: self.will_retain,
            topic,
            payload: Bytes::from(payload.into_encoded_bytes()),
            properties,
        }))
    }
}

impl ClientArgs {
    /// Whether the server is to keep the session.
    pub(super) const fn keeps_session(&self) -> bool {
        self.disable_clean_session
    }

    /// Says what is waited for and does not come, unless nothing is to be said.
    pub(super) fn tell_waiting(&self, text: &str) {
        if !self.quiet {
            watch::say(text);
        }
    }
}

impl Client {
    /// Refuses what the platform is known not to take, before anybody is connected to. Without a `payload` its length is
    /// not known yet.
    pub(super) fn check(&self, topic: &Topic, payload: Option<&Bytes>) -> Result<(), CommandError> {
        let payload_bytes = payload.map_or(0, Bytes::len);
        self.platform.check_message(topic.as_str(), payload_bytes)
    }

    /// The same for subscriptions.
    pub(super) fn check_subscriptions(
        &self,
        wanted: &[mqtt::Subscription],
    ) -> Result<(), CommandError> {
        let mut wanted = wanted.iter();
        wanted.try_for_each(|wanted| self.platform.check_subscription(wanted))
    }

    /// Starts the link. It connects in the background; the watch tells how that goes.
    pub(super) fn start(self) -> Result<(Fleet, Link, Watch), CommandError> {
        let (link, events) = self
            .builder
            .start_with_events()
            .map_err(|error| match error {
                // What the platform does not take is refused before anything is sent.
                StartError::Dialect(_) => usage(error.to_string()),
                error => CommandError::Failed(error.to_string()),
            })?;
        Ok((self.fleet, link, self.watch.on(events)))
    }
}

/// Says goodbye to the server; what is not delivered ends as dropped.
pub(super) async fn leave(fleet: &Fleet) {
    fleet.drain(FAREWELL).await;
}

/// Resolves once the process is asked to end (SIGINT, SIGTERM), which it does not do by itself any more from this call on.
pub(super) fn asked_to_end() -> impl Future<Output = std::io::Result<()>> {
    let signals = Signals::listen();
    async move {
        signals?.next().await;
        Ok(())
    }
}

/// Leaves at once when the process is asked to end for the `nth` time from this call on, whatever it waits for.
pub(super) fn leave_at_signal(nth: usize) {
    let guard = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .ok()?;
        runtime.block_on(async {
            let mut signals = Signals::listen().ok()?;
            for _ in 0..nth {
                signals.next().await;
            }
            Some(())
        })?;
        std::process::exit(INTERRUPTED.into())
    };
    // Without the thread the command still ends at the first signal, after its goodbye.
    let _: std::io::Result<std::thread::JoinHandle<Option<()>>> = std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(guard);
}

/// Resolves after `limit`, without one never.
pub(super) async fn timed_out(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Runs a command's future; the link has a thread of its own.
pub(super) fn block_on<T>(
    future: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::Failed(format!("cannot set up an event loop: {error}")))?
        .block_on(future)
}

pub(super) fn usage(text: impl Into<String>) -> CommandError {
    CommandError::Usage(text.into())
}

fn quality_of_service(text: &str) -> Result<QoS, &'static str> {
    text.parse()
        .ok()
        .and_then(QoS::from_u8)
        .ok_or("use 0, 1 or 2")
}

fn session_expiry(text: &str) -> Result<u32, &'static str> {
    match text {
        "-1" | "∞" => Ok(u32::MAX),
        _ => text
            .parse()
            .map_err(|_| "use seconds from 0 to 4294967295, or -1 for ever"),
    }
}

/// Seconds with or without a fraction.
pub(super) fn seconds(text: &str) -> Result<Duration, &'static str> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or("use a number of seconds, 0 or more")
}
