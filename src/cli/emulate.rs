//! `paquebot emulate`: a cloud on this machine, until it is told to end.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use paquebot_emulator::Stats;
use paquebot_emulator::aws::Aws;
use serde_json::{Value, json};

use super::CommandError;
use super::run::read_duration;
use super::voyage::{self, Signals};

/// The access key that a WebSocket may be signed with; no secret, for whoever reaches the ports is on this
/// machine.
const ACCESS_KEY: &str = "AKIDPAQUEBOT";
const SECRET_KEY: &str = "paquebot-emulator";

/// The region that is signed for: the emulator takes any, and its host names none.
const REGION: &str = "us-east-1";

/// The host that Amazon's first SDK for Python believes to connect to: it takes a WebSocket's host only when
/// it looks like an endpoint.
const ENDPOINT: &str = "emulator.iot.us-east-1.amazonaws.com";

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
/// thing, later ones reuse them.
#[derive(Debug, clap::Args)]
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
    let runtime = voyage::runtime()?;
    runtime.block_on(emulate_aws(args, out))?;
    Ok(ExitCode::SUCCESS)
}

async fn emulate_aws(args: &AwsArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let mut signals = Signals::listen().map_err(|error| CommandError::Failed(error.to_string()))?;
    let usage = |error: &dyn std::fmt::Display| CommandError::Usage(error.to_string());
    let aws = Aws::builder()
        .directory(&args.dir)
        .mqtt((args.listen, args.port))
        .shared((args.listen, args.shared_port))
        .https((args.listen, args.https_port))
        .access_key(ACCESS_KEY, SECRET_KEY, None)
        .start()
        .await
        .map_err(|error| usage(&error))?;
    let started = Instant::now();
    for thing in &args.things {
        aws.client_certificate(thing)
            .map_err(|error| usage(&error))?;
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

/// The files of a thing.
fn files(directory: &Path, thing: &str) -> (PathBuf, PathBuf) {
    let clients = directory.join("clients");
    (
        clients.join(format!("{thing}.pem")),
        clients.join(format!("{thing}.key")),
    )
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

/// Where it listens, and command lines that connect to it.
fn introduction(args: &AwsArgs, aws: &Aws) -> String {
    let (mqtt, shared, https) = (
        aws.mqtt_address(),
        aws.shared_address(),
        aws.https_address(),
    );
    let host = match args.listen {
        IpAddr::V4(address) if address == Ipv4Addr::LOCALHOST => "localhost".to_owned(),
        other => other.to_string(),
    };
    let thing = args.things.first().map_or("thing-1", String::as_str);
    let (certificate, key) = files(&args.dir, thing);
    let authority = args.dir.join("ca.pem");
    let trust = format!("--cafile {}", shown(&authority));
    let identity = format!("--cert {} --key {}", shown(&certificate), shown(&key));
    let port = mqtt.port();
    let shadow = format!("$aws/things/{thing}/shadow");
    let mut text = format!(
        "\
mqtt       {mqtt}, with a client certificate (AWS's 8883)
shared     {shared}, WebSocket /mqtt, HTTPS and ALPN (AWS's 443)
https      {https} (AWS's 8443)
authority  {authority}
access key {ACCESS_KEY} with the secret {SECRET_KEY}
",
        authority = shown(&authority),
    );
    let mut line = |title: &str, rest: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{title:<10} {rest}");
    };
    for thing in &args.things {
        let (certificate, key) = files(&args.dir, thing);
        line(
            "thing",
            format!("{thing}: {} {}", shown(&certificate), shown(&key)),
        );
    }
    line(
        "listen in",
        format!(
            "paquebot sub -h {host} -p {port} {trust} {identity} -i watcher -t '$aws/things/{thing}/#' -t 'dt/#' -v"
        ),
    );
    line(
        "report",
        format!(
            "paquebot pub -h {host} -p {port} {trust} {identity} -i {thing} -q 1 -t '{shadow}/update' -m '{{\"state\":{{\"reported\":{{\"led\":\"off\"}}}}}}'"
        ),
    );
    line(
        "desire",
        format!(
            "curl -s --cacert {} {identity} https://{host}:{}/things/{thing}/shadow -d '{{\"state\":{{\"desired\":{{\"led\":\"on\"}}}}}}'",
            shown(&authority),
            https.port()
        ),
    );
    line(
        "job",
        format!(
            "curl -s --cacert {} {identity} -X PUT https://{host}:{}/jobs/job-1 -d '{{\"targets\":[\"{thing}\"],\"document\":{{\"operation\":\"reboot\"}}}}'",
            shown(&authority),
            https.port()
        ),
    );
    for example in ["aws_shadow", "aws_jobs"] {
        let (certificate, key) = files(&args.dir, thing);
        line(
            "example",
            format!(
                "cargo run --example {example} -- {host} {thing} {} {} {} {port}",
                shown(&certificate),
                shown(&key),
                shown(&authority)
            ),
        );
    }
    line(
        "mosquitto",
        format!(
            "mosquitto_pub -h {host} -p {port} {trust} {identity} -i {thing} -q 1 -t dt/{thing} -m hello"
        ),
    );
    line(
        "alpn",
        format!(
            "mosquitto_pub -h {host} -p {} {trust} {identity} --tls-alpn x-amzn-mqtt-ca -i {thing} -q 1 -t dt/{thing} -m hello",
            shared.port()
        ),
    );
    let _ = write!(
        text,
        "\
{fleet}Amazon's SDK for Python (pip install AWSIoTPythonSDK):
  from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTClient
  client = AWSIoTMQTTClient(\"{thing}\")
  client.configureEndpoint(\"{host}\", {port})
  client.configureCredentials({authority:?}, {key:?}, {certificate:?})
  client.connect()
  client.publish(\"dt/{thing}\", \"hello\", 1)
the same over WebSocket:
  import socket
  client = AWSIoTMQTTClient(\"{thing}\", useWebsocket=True)
  client.configureEndpoint(\"{ENDPOINT}\", 443)
  client.configureSocketFactory(lambda: socket.create_connection((\"{ip}\", {websocket})))
  client.configureCredentials({authority:?})
  client.configureIAMCredentials(\"{ACCESS_KEY}\", \"{SECRET_KEY}\")
",
        fleet = fleet_line(args, &host, shared.port()),
        ip = shared.ip(),
        websocket = shared.port(),
    );
    text
}

/// The line that runs the fleet file of the examples: by the access key, so that things need no files.
fn fleet_line(args: &AwsArgs, host: &str, port: u16) -> String {
    // A fleet file takes relative paths from its own folder.
    let folder = std::path::absolute(&args.dir).unwrap_or_else(|_| args.dir.clone());
    let mut sets = format!("--set platforms.cloud.endpoint={host}:{port}");
    for (key, value) in [
        ("region", REGION.to_owned()),
        ("ca_file", shown(&folder.join("ca.pem"))),
    ] {
        // Writing to a string does not fail.
        let _ = write!(sets, " --set platforms.cloud.{key}={value}");
    }
    format!(
        "{:<10} AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY} AWS_SESSION_TOKEN= paquebot run -f examples/aws.toml {sets}\n",
        "fleet"
    )
}

/// A path as a shell takes it.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if text.bytes().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
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
