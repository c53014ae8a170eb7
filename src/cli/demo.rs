//! `paquebot demo`: an embedded broker, a fleet against it over TCP, and an application that asks the devices
//! things, in one process.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use paquebot::admin::Admin;
use paquebot::fleet_file::{FleetPlan, Overrides};
use paquebot::{DeviceId, Fleet};
use paquebot_emulator::{Broker, BrokerThread};

use super::CommandError;
use super::live::{Live, Teller};
use super::preflight;
use super::run::read_duration;
use super::summary::Summary;
use super::voyage::{self, Signals, Voyage};
use crate::simulation::{Prepared, start_fleet};

/// The fleet, which is also an example for a user's first own one.
const FLEET: &str = include_str!("../../examples/demo.toml");

/// One of so many devices is a thermostat.
const THERMOSTAT_EVERY: u64 = 5;

/// The meter that the introduction asks, where there are so many.
const ASKED: u64 = 7;

/// Between two commands of the application.
const COMMAND_EVERY: Duration = Duration::from_millis(50);

/// How long the restarting broker turns everybody away.
const DOWN_TIME: Duration = Duration::from_millis(500);

/// When the broker restarts in a demo that ends by hand.
const RESTART_AFTER: Duration = Duration::from_secs(30);

/// In a shorter demo the broker does not restart: there is no time to come back.
const RESTART_DURATION_MIN: Duration = Duration::from_secs(5);

/// Runs 1,000 devices against an embedded broker
///
/// Everything stays on this machine: the broker and the metrics listen on 127.0.0.1. The broker restarts once
/// on the way (in demos of 5 s and more), so that you see the fleet come back.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DemoArgs {
    /// How many devices: 1 to 1,000,000
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    devices: u64,
    /// End after so much time: 10s, 5m [default: run until Ctrl-C or SIGTERM]
    #[arg(long, value_name = "TIME", value_parser = read_duration)]
    duration: Option<Duration>,
    /// Print the summary as one JSON object, the last line of standard output
    #[arg(long)]
    json: bool,
    /// MQTT version of the devices
    #[arg(long, default_value = "5", value_parser = ["3.1.1", "5"])]
    version: String,
    /// Where the broker listens: a loopback address; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Runs the command.
///
/// # Errors
/// The broker or a listener cannot start ([`CommandError::Usage`]), or the run went wrong.
pub(crate) fn run(args: &DemoArgs, out: &mut dyn Write) -> Result<ExitCode, CommandError> {
    let devices = usize::try_from(args.devices).unwrap_or(usize::MAX);
    // Both ends of each connection are in this process.
    preflight::allow_sockets(devices, args.devices.saturating_mul(2))?;
    let broker = Broker::builder()
        .tcp(args.listen)
        .start_on_thread()
        .map_err(|error| CommandError::Usage(error.to_string()))?;
    let address = broker
        .tcp_address()
        .ok_or_else(|| CommandError::Failed("the broker has no listener".to_owned()))?;
    let plan = plan(args, address)?;
    let runtime = voyage::runtime()?;
    let summary = runtime.block_on(sail(args, &plan, &broker, address))?;
    broker.stop();
    voyage::conclude(summary.as_ref(), args.json, out)
}

fn plan(args: &DemoArgs, broker: SocketAddr) -> Result<FleetPlan, CommandError> {
    let thermostats = args.devices / THERMOSTAT_EVERY;
    let sets = [
        format!("platforms.broker.endpoint=mqtt://{broker}"),
        format!("platforms.broker.version={}", args.version),
        format!("groups.meters.count={}", args.devices - thermostats),
        format!("groups.thermostats.count={thermostats}"),
    ];
    let overrides = Overrides::none().with_sets(sets);
    FleetPlan::parse("demo.toml", FLEET.as_bytes(), Path::new(""), &overrides)
        .map_err(|error| CommandError::Failed(error.to_string()))
}

async fn sail(
    args: &DemoArgs,
    plan: &FleetPlan,
    broker: &BrokerThread,
    address: SocketAddr,
) -> Result<Option<Summary>, CommandError> {
    let failed = |error: &dyn std::fmt::Display| CommandError::Failed(error.to_string());
    let mut signals = Signals::listen().map_err(|error| failed(&error))?;
    let fleet = start_fleet(plan).map_err(|error| failed(&error))?;
    let prepared = Prepared::new(plan, &fleet, None).map_err(|error| failed(&error))?;
    let listen = plan.admin.as_ref().map(|admin| admin.listen);
    let admin = listen
        .map(|listen| Admin::start(listen, fleet.clone()))
        .transpose()
        .map_err(|error| failed(&error))?;
    let devices = prepared.device_count();
    let restarts = Arc::default();
    let live = Live::new(devices as u64).with_restarts(&restarts);
    let asked = last_meter(args.devices).min(ASKED);
    introduce(&live, address, asked, admin.as_ref());
    let teller = live.teller();
    let simulation = prepared.start().map_err(|error| failed(&error))?;
    let voyage = Voyage {
        name: plan.name.to_string(),
        fleet,
        simulation,
        devices,
        duration: args.duration,
        drain_timeout: plan.drain_timeout,
        restarts: Arc::clone(&restarts),
    };
    let summary = tokio::select! {
        summary = voyage.run(&mut signals, live) => summary,
        error = ask(plan, address) => return Err(error),
        () = cause_trouble(args.duration, broker, &teller, &restarts) => None,
    };
    Ok(summary)
}

/// The number of the last meter of so many devices.
const fn last_meter(devices: u64) -> u64 {
    (devices - devices / THERMOSTAT_EVERY).saturating_sub(1)
}

fn introduce(live: &Live, broker: SocketAddr, asked: u64, admin: Option<&Admin>) {
    let (host, port) = (broker.ip(), broker.port());
    live.say(&format!(
        "broker     mqtt://{broker}, embedded; it ends with the demo"
    ));
    if let Some(admin) = admin {
        live.say(&format!("metrics    http://{}/metrics", admin.address()));
    }
    let program = super::program();
    live.say(&format!(
        "listen in  {program} sub -h {host} -p {port} -t 'devices/+/telemetry' -v -C 10"
    ));
    live.say(&format!(
        "ask        {program} pub -h {host} -p {port} -t devices/meter-{asked:06}/commands/reboot -m '{{}}'"
    ));
    live.say(&format!(
        "your own   {program} run -f examples/mosquitto.toml; {program} bench --help"
    ));
}

/// The application's side, with a fleet of its own so that the devices' figures are theirs alone: asks one
/// device after the other something. Never ends but by a failure.
async fn ask(plan: &FleetPlan, broker: SocketAddr) -> CommandError {
    match try_ask(plan, broker).await {
        Ok(never) => match never {},
        Err(error) => CommandError::Failed(format!("the demo's application: {error}")),
    }
}

async fn try_ask(
    plan: &FleetPlan,
    broker: SocketAddr,
) -> Result<std::convert::Infallible, Box<dyn std::error::Error>> {
    let fleet = Fleet::builder()
        .name("demo-application")
        .workers(1)
        .start()?;
    let group = fleet
        .group("application")
        .endpoint(format!("mqtt://{broker}"))
        .backoff(paquebot::BackoffConfig {
            base: Duration::from_millis(200),
            max: Duration::from_secs(1),
            ..paquebot::BackoffConfig::default()
        })
        .build()?;
    let application = group.application("demo-console")?.start()?.as_application();
    let mut replies = application.replies().await?;
    replies.ready().await?;
    let mut timer = tokio::time::interval(COMMAND_EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let mut request = 0_u64;
    loop {
        tokio::select! {
            _ = timer.tick() => {
                let Some(group) = plan.groups.get(random.usize(..plan.groups.len())) else {
                    continue;
                };
                let commands = &group.model.commands;
                if group.count == 0 || commands.is_empty() {
                    continue;
                }
                let index = group.start_index + random.u64(..group.count);
                let device = DeviceId::new(group.device(index).id)?;
                let command = &commands[random.usize(..commands.len())];
                request += 1;
                let name = format!("r{request}");
                // Whether it arrived shows in the answers; a lost broker is a part of the demo.
                drop(application.command(&device, &command.name, &b"{}"[..], &name).await?);
            }
            reply = replies.next() => {
                let (device, _, reply) = reply.ok_or("its link has ended")?;
                tracing::debug!(%device, status = reply.status.name(), "a device answered");
            }
        }
    }
}

/// Restarts the broker as one with persistence restarts. Never ends.
async fn cause_trouble(
    duration: Option<Duration>,
    broker: &BrokerThread,
    teller: &Teller,
    restarts: &AtomicU64,
) {
    let restart = || {
        teller.say(
            "planned    the broker restarts on purpose; everybody has to come back and nothing may get lost",
        );
        restarts.fetch_add(1, Ordering::Relaxed);
        broker.faults().restart_keeping_sessions(DOWN_TIME);
    };
    match duration {
        Some(duration) if duration < RESTART_DURATION_MIN => {}
        Some(duration) => {
            tokio::time::sleep(duration.mul_f64(0.4)).await;
            restart();
        }
        None => {
            let mut timer = tokio::time::interval(RESTART_AFTER);
            timer.tick().await;
            loop {
                timer.tick().await;
                restart();
            }
        }
    }
    std::future::pending().await
}
