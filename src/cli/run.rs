//! `paquebot run`: runs the devices of a fleet file.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use paquebot::StartError;
use paquebot::admin::Admin;
use paquebot::fleet_file::{FleetPlan, parse_duration};

use super::CommandError;
use super::check::FleetFileArgs;
use super::live::Live;
use super::preflight;
use super::voyage::{self, Signals, Voyage};
use crate::simulation::{Prepared, start_fleet};

/// Runs the devices of a fleet file
///
/// Progress goes to standard error, the summary to standard output. The exit status is 0 when all went well, 1
/// when not one device came online or the messages do not add up, 2 when the file, a certificate, a key or an
/// address is wrong: then nothing was started.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RunArgs {
    /// Which file, and what to change in it.
    #[command(flatten)]
    fleet_file: FleetFileArgs,
    /// End after so much time: 90s, 10m, 1h30m [default: run until Ctrl-C or SIGTERM]
    #[arg(long, value_name = "TIME", value_parser = read_duration)]
    duration: Option<Duration>,
    /// End after so many telemetry messages; states, replies and online notices are not counted
    #[arg(long, value_name = "MESSAGES", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print the summary as one JSON object, the last line of standard output
    #[arg(long)]
    json: bool,
    /// Leave the admin listener of the file out
    #[arg(long)]
    no_admin: bool,
}

/// A time above zero, as the fleet file writes it.
pub(super) fn read_duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "write a time above zero such as 500ms, 30s, 10m or 1h30m".to_owned())
}

/// Runs the command.
///
/// # Errors
/// Something is wrong before the start ([`CommandError::Usage`]), or the run went wrong.
pub(crate) fn run(args: &RunArgs, out: &mut dyn Write) -> Result<ExitCode, CommandError> {
    let Some(plan) = args.fleet_file.load_or_explain(&mut io::stderr().lock())? else {
        return Ok(ExitCode::from(2));
    };
    for warning in &plan.warnings {
        let _ = writeln!(io::stderr().lock(), "warning: {warning}");
    }
    let devices = usize::try_from(plan.device_count()).unwrap_or(usize::MAX);
    preflight::allow_sockets(devices, plan.device_count())?;
    let runtime = voyage::runtime()?;
    let summary = runtime.block_on(sail(args, &plan))?;
    voyage::conclude(summary.as_ref(), args.json, out)
}

async fn sail(
    args: &RunArgs,
    plan: &FleetPlan,
) -> Result<Option<super::summary::Summary>, CommandError> {
    let mut signals = Signals::listen()
        .map_err(|error| CommandError::Failed(format!("cannot listen for signals: {error}")))?;
    let refuse = |problem: String| CommandError::Usage(format!("{problem}\nnothing was started"));
    let fleet = start_fleet(plan).map_err(|error| match error {
        StartError::Store(error) => refuse(format!("outbox.store: {error}")),
        error => CommandError::Failed(error.to_string()),
    })?;
    let prepared = Prepared::new(plan, &fleet, args.limit)
        .map_err(|error| refuse(format!("{}: {error}", args.fleet_file.file().display())))?;
    let admin = match &plan.admin {
        Some(admin) if !args.no_admin => Some(
            Admin::start(admin.listen, fleet.clone())
                .map_err(|error| refuse(format!("admin.listen: {error}")))?,
        ),
        _ => None,
    };
    let devices = prepared.device_count();
    let live = Live::new(devices as u64);
    if let Some(admin) = &admin {
        live.say(&format!("metrics    http://{}/metrics", admin.address()));
    }
    if let (Some(directory), Some(store)) = (plan.store_directory(), fleet.store_statistics()) {
        live.say(&format!(
            "store      {}: {} entries of {} queues wait",
            directory.display(),
            store.entries,
            store.queues
        ));
    }
    let simulation = prepared.start().map_err(|error| {
        CommandError::Failed(format!("cannot start a thread for the devices: {error}"))
    })?;
    let voyage = Voyage {
        name: plan.name.to_string(),
        fleet,
        simulation,
        devices,
        duration: args.duration,
        drain_timeout: plan.drain_timeout,
        restarts: Arc::default(),
    };
    let summary = voyage.run(&mut signals, live).await;
    drop(admin);
    Ok(summary)
}
