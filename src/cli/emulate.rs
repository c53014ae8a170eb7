//! `paquebot emulate`: a cloud on this machine, until it is told to end.

mod introduction;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use paquebot_emulator::Stats;
use paquebot_emulator::aws::services::ProvisioningTemplate;
use paquebot_emulator::aws::{Authorizer, Aws, AwsBuilder, AwsSettings, Permissions};
use serde_json::{Value, json};

use self::introduction::{files, introduction};
use super::CommandError;
use super::run::read_duration;
use super::voyage::{self, Signals};

/// The access key that a WebSocket may be signed with; no secret, for whoever reaches the ports is on this
/// machine.
const ACCESS_KEY: &str = "AKIDPAQUEBOT";
const SECRET_KEY: &str = "paquebot-emulator";

/// Run a cloud's broker and services on this machine
///
/// Devices and applications connect to it as to the cloud, with its own SDKs too.
#[derive(Debug, clap::Args)]
pub(crate) struct EmulateArgs {
    #[command(subcommand)]
    cloud: Cloud,
}

#[derive(Debug, clap::Subcommand)]
enum Cloud {
    Aws(AwsArgs),
}

/// AWS IoT Core
///
/// Its message broker with the rules and limits of AWS, device shadows, jobs, fleet provisioning and
/// Greengrass discovery; MQTT with a client certificate, MQTT over WebSocket with Signature Version 4, HTTPS.
/// Nothing outlives it but the certificates: the first start makes an authority and a certificate for each
/// thing, later ones reuse them. Whom it turns away, why, and whose rule that is, it says on standard error.
///
/// Quotas in force: 128 KiB of payload, topics of 256 bytes and 8 levels, 8 filters in a SUBSCRIBE, 50
/// subscriptions, 100 QoS 1 messages unacknowledged each way, 100 messages and 512 KiB a second in, client
/// identifiers of 128 bytes, keep alive 30 to 1200 s, a session for an hour, a WebSocket for 24. Of others the
/// documents do not say what a client sees; the options below switch them on.
#[derive(Debug, Clone, clap::Args)]
struct AwsArgs {
    /// Directory of the authority and the certificates
    #[arg(long, value_name = "DIRECTORY", default_value = "paquebot-aws")]
    dir: PathBuf,
    /// Thing to have a certificate for, made at its first start; may be repeated
    #[arg(long = "thing", value_name = "NAME", default_value = "thing-1")]
    things: Vec<String>,
    /// Loopback address to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// Port for MQTT with a client certificate, AWS's 8883; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8883)]
    port: u16,
    /// Port for WebSocket, HTTPS and ALPN, AWS's 443; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 4433)]
    shared_port: u16,
    /// Port for HTTPS, AWS's 8443; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    https_port: u16,
    /// Region that signatures and the endpoint's name are for
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    region: String,
    /// Messages that a connection may publish in a second before it is slowed down; 0 is any number
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    publish_rate: u32,
    /// Refuse a CONNECT that comes sooner after the last one of its client identifier; AWS's quota is 1s
    /// [default: take it]
    #[arg(long, value_name = "TIME", value_parser = read_duration)]
    connect_interval: Option<Duration>,
    /// Send a QoS 1 message that MQTT 3.1.1 leaves unacknowledged again on the same connection, every so often
    /// [default: on the next connection]
    #[arg(long, value_name = "TIME", value_parser = read_duration)]
    redelivery: Option<Duration>,
    /// Custom authorizer that lets in whoever names it, or names none and has no certificate
    #[arg(long, value_name = "NAME")]
    authorizer: Option<String>,
    /// Key of the token that the authorizer asks for, with its signature
    #[arg(long, value_name = "KEY", requires_all = ["authorizer", "authorizer_public_key"])]
    authorizer_token_key: Option<String>,
    /// File with the RSA public key, in PEM, that the token's signature is checked with
    #[arg(long, value_name = "FILE", requires = "authorizer_token_key")]
    authorizer_public_key: Option<PathBuf>,
    /// Template of fleet provisioning that names each thing after one of its parameters, such as
    /// line=SerialNumber; may be repeated. The certificate of any thing may claim
    #[arg(long = "template", value_name = "NAME=PARAMETER", value_parser = read_template)]
    templates: Vec<(String, String)>,
    /// File with an AWS IoT policy in JSON that everybody is under: who may connect, publish and subscribe
    /// [default: everybody may do everything]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// End after so much time: 10s, 5m [default: run until Ctrl-C or SIGTERM]
    #[arg(long, value_name = "TIME", value_parser = read_duration)]
    duration: Option<Duration>,
    /// Print where it listens, and at the end the summary, as one JSON object a line on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A port or a certificate cannot be had ([`CommandError::Usage`]), or the output cannot be written.
pub(crate) fn run(args: &EmulateArgs, out: &mut dyn Write) -> Result<ExitCode, CommandError> {
    let Cloud::Aws(args) = &args.cloud;
    // What is printed has to be right wherever it is copied to.
    let dir = std::path::absolute(&args.dir)
        .map_err(|error| CommandError::Usage(format!("{}: {error}", args.dir.display())))?;
    let args = AwsArgs {
        dir,
        ..args.clone()
    };
    let runtime = voyage::runtime()?;
    runtime.block_on(emulate_aws(&args, out))?;
    Ok(ExitCode::SUCCESS)
}

async fn emulate_aws(args: &AwsArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let mut signals = Signals::listen().map_err(|error| CommandError::Failed(error.to_string()))?;
    let usage = |error: &dyn std::fmt::Display| CommandError::Usage(error.to_string());
    let builder = with_policy(args, with_authorizer(args, builder(args))?)?;
    let aws = builder.start().await.map_err(|error| usage(&error))?;
    let started = Instant::now();
    for thing in &args.things {
        aws.client_certificate(thing)
            .map_err(|error| usage(&error))?;
        aws.services(|services| services.add_thing(thing));
    }
    for (name, parameter) in &args.templates {
        let template = ProvisioningTemplate::named_after(parameter, "", BTreeMap::new());
        aws.services(|services| services.add_template(name, template));
    }
    if args.json {
        writeln!(out, "{}", places_json(args, &aws))?;
        out.flush()?;
    } else {
        io::stderr()
            .lock()
            .write_all(introduction(args, &aws).as_bytes())?;
    }
    let time_is_over = async {
        match args.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = time_is_over => {}
        () = signals.next() => {}
    }
    let stats = aws.broker().stats();
    let leave = async {
        aws.stop().await;
    };
    tokio::select! {
        () = leave => {}
        // A second signal does not wait for clients that do not close.
        () = signals.next() => {}
    }
    if args.json {
        writeln!(out, "{}", summary_json(&stats, started.elapsed()))?;
    } else {
        write!(out, "{}", summary_text(&stats, started.elapsed()))?;
    }
    Ok(out.flush()?)
}

fn read_template(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, parameter)) if !name.is_empty() && !parameter.is_empty() => {
            Ok((name.to_owned(), parameter.to_owned()))
        }
        _ => Err("give a name, = and a parameter, such as line=SerialNumber".to_owned()),
    }
}

fn builder(args: &AwsArgs) -> AwsBuilder {
    let mut settings = AwsSettings::default();
    settings.publishes_per_second_max = (args.publish_rate > 0).then_some(args.publish_rate);
    settings.connect_interval_min = args.connect_interval;
    settings.redelivery_interval = args.redelivery;
    Aws::builder()
        .directory(&args.dir)
        .server_name(args.listen.to_string())
        .region(&args.region)
        .mqtt((args.listen, args.port))
        .shared((args.listen, args.shared_port))
        .https((args.listen, args.https_port))
        .settings(settings)
        .access_key(ACCESS_KEY, SECRET_KEY, None)
}

/// Adds the custom authorizer that is asked for.
///
/// # Errors
/// A public key that cannot be read.
fn with_authorizer(args: &AwsArgs, builder: AwsBuilder) -> Result<AwsBuilder, CommandError> {
    let Some(name) = &args.authorizer else {
        return Ok(builder);
    };
    let authorizer = Authorizer::new(name);
    let (Some(key), Some(path)) = (&args.authorizer_token_key, &args.authorizer_public_key) else {
        return Ok(builder.authorizer(authorizer));
    };
    let unusable =
        |error: &dyn std::fmt::Display| CommandError::Usage(format!("{}: {error}", path.display()));
    let pem = fs::read_to_string(path).map_err(|error| unusable(&error))?;
    let authorizer = authorizer.signed_token(key, &pem);
    Ok(builder.authorizer(authorizer.map_err(|error| unusable(&error))?))
}

/// Puts everybody under the policy that is asked for.
///
/// # Errors
/// A file that cannot be read, or that is no policy the emulator can follow.
fn with_policy(args: &AwsArgs, builder: AwsBuilder) -> Result<AwsBuilder, CommandError> {
    let Some(path) = &args.policy else {
        return Ok(builder);
    };
    let unusable =
        |error: &dyn std::fmt::Display| CommandError::Usage(format!("{}: {error}", path.display()));
    let policy = fs::read_to_string(path).map_err(|error| unusable(&error))?;
    let permissions = Permissions::from_policy(&policy).map_err(|error| unusable(&error))?;
    Ok(builder.permissions(permissions))
}

fn places_json(args: &AwsArgs, aws: &Aws) -> Value {
    let things: Vec<Value> = args
        .things
        .iter()
        .map(|thing| {
            let (certificate, key) = files(&args.dir, thing);
            json!({"name": thing, "certificate": certificate, "private_key": key})
        })
        .collect();
    json!({
        "mqtt": aws.mqtt_address(),
        "shared": aws.shared_address(),
        "https": aws.https_address(),
        "authority": aws.authority_path(),
        "things": things,
        "access_key": {"id": ACCESS_KEY, "secret": SECRET_KEY},
    })
}

fn summary_json(stats: &Stats, elapsed: Duration) -> Value {
    json!({
        "duration_s": elapsed.as_secs_f64(),
        "connections": stats.connections,
        "connects_accepted": stats.connects_accepted,
        "connects_refused": stats.connects_refused,
        "received": stats.received_total(),
        "sent": stats.sent_total(),
        "violations": stats.violations,
        "denied": stats.denied,
        "retained": stats.retained,
        "bytes_received": stats.bytes_received,
        "bytes_sent": stats.bytes_sent,
    })
}

fn summary_text(stats: &Stats, elapsed: Duration) -> String {
    format!(
        "aws: {:.1} s, {} connections accepted and {} refused, {} messages received and {} sent, \
         {} connections closed for breaking a rule\n",
        elapsed.as_secs_f64(),
        stats.connects_accepted,
        stats.connects_refused,
        stats.received_total(),
        stats.sent_total(),
        stats.violations,
    )
}
