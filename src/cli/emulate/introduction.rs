//! What the emulator says when it is up: where it listens, and command lines that connect to it from any
//! directory.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use paquebot_emulator::aws::Aws;

use super::{ACCESS_KEY, AwsArgs, SECRET_KEY};

/// Where this program's sources were when it was built; its examples are there, if they still are.
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
const FLEET_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/aws.toml");

/// The files of a thing: its certificate and its key.
pub(super) fn files(directory: &Path, thing: &str) -> (PathBuf, PathBuf) {
    let clients = directory.join("clients");
    (
        clients.join(format!("{thing}.pem")),
        clients.join(format!("{thing}.key")),
    )
}

/// Where it listens, and command lines that connect to it.
pub(super) fn introduction(args: &AwsArgs, aws: &Aws) -> String {
    let places = Places::of(args, aws);
    let mut text = format!(
        "\
mqtt       {}, with a client certificate (AWS's 8883)
shared     {}, WebSocket /mqtt, HTTPS and ALPN (AWS's 443)
https      {} (AWS's 8443)
authority  {}
access key {ACCESS_KEY} with the secret {SECRET_KEY}, for the region {}
",
        aws.mqtt_address(),
        aws.shared_address(),
        aws.https_address(),
        places.authority,
        args.region,
    );
    if let Some(name) = &args.authorizer {
        let token = match &args.authorizer_token_key {
            Some(key) => format!(", which checks the signature of the token under {key}"),
            None => String::new(),
        };
        let _ = writeln!(text, "authorizer {name}{token}");
    }
    for thing in &args.things {
        let (certificate, key) = files(&args.dir, thing);
        let (certificate, key) = (shown(&certificate), shown(&key));
        let _ = writeln!(text, "thing      {thing}: {certificate} {key}");
    }
    text.push_str(
        "\
to see     over HTTPS: /things, /certificates, /jobs, /jobs/<jobId>, /jobs/<jobId>/things, /things/<thing>/shadow
log        whom it turns away and why is said here
",
    );
    for (title, command) in places.commands(args) {
        // Writing to a string does not fail.
        let _ = write!(text, "\n# {title}\n{command}\n");
    }
    text.push_str(&places.python(args));
    text
}

/// The parts of the command lines.
struct Places {
    /// As MQTT clients take it, and as a URL does.
    host: String,
    url: String,
    thing: String,
    mqtt_port: u16,
    shared: std::net::SocketAddr,
    authority: String,
    certificate: String,
    key: String,
}

impl Places {
    fn of(args: &AwsArgs, aws: &Aws) -> Self {
        let host = match args.listen {
            IpAddr::V4(address) if address == Ipv4Addr::LOCALHOST => "localhost".to_owned(),
            other => other.to_string(),
        };
        let url_host = match args.listen {
            IpAddr::V6(address) => format!("[{address}]"),
            IpAddr::V4(_) => host.clone(),
        };
        let thing = args.things.first().map_or("thing-1", String::as_str);
        let (certificate, key) = files(&args.dir, thing);
        Self {
            url: format!("https://{url_host}:{}", aws.https_address().port()),
            host,
            thing: thing.to_owned(),
            mqtt_port: aws.mqtt_address().port(),
            shared: aws.shared_address(),
            authority: shown(&args.dir.join("ca.pem")),
            certificate: shown(&certificate),
            key: shown(&key),
        }
    }

    /// Titles and command lines. None of them has the thing's own client identifier, with which it would
    /// end the connection of the thing.
    fn commands(&self, args: &AwsArgs) -> Vec<(&'static str, String)> {
        let Self {
            host,
            url,
            thing,
            mqtt_port: port,
            authority,
            certificate,
            key,
            ..
        } = self;
        let program =
            std::env::current_exe().map_or_else(|_| "paquebot".to_owned(), |path| shown(&path));
        let tls = format!("--cafile {authority} --cert {certificate} --key {key}");
        let curl =
            format!("curl -sS -w '\\n' --cacert {authority} --cert {certificate} --key {key}");
        let shadow = format!("$aws/things/{thing}/shadow");
        let hello = format!("-i {thing}-cli -q 1 -t dt/{thing} -m hello");
        let shared_port = self.shared.port();
        let mut commands = vec![
            (
                "listen in",
                format!(
                    "{program} sub --platform aws -h {host} -p {port} {tls} -i watcher -t '$aws/things/{thing}/#' -t 'dt/#' -v"
                ),
            ),
            (
                "report a state, as the thing does",
                format!(
                    "{program} pub --platform aws -h {host} -p {port} {tls} -i {thing}-cli -q 1 -t '{shadow}/update' -m '{{\"state\":{{\"reported\":{{\"led\":\"off\"}}}}}}'"
                ),
            ),
            (
                "desire a state, as an application does",
                format!(
                    "{curl} {url}/things/{thing}/shadow -d '{{\"state\":{{\"desired\":{{\"led\":\"on\"}}}}}}'"
                ),
            ),
            (
                "look at the shadow",
                format!("{curl} {url}/things/{thing}/shadow"),
            ),
            (
                "make a job",
                format!(
                    "{curl} -X PUT {url}/jobs/job-$(date +%s) -d '{{\"targets\":[\"{thing}\"],\"document\":{{\"operation\":\"reboot\"}}}}'"
                ),
            ),
            ("look at the jobs", format!("{curl} {url}/jobs")),
        ];
        if Path::new(MANIFEST).exists() {
            let manifest = shown(Path::new(MANIFEST));
            for (title, example) in [
                ("run the example of a shadow", "aws_shadow"),
                ("run the example of jobs", "aws_jobs"),
            ] {
                commands.push((
                    title,
                    format!(
                        "cargo run --manifest-path {manifest} --example {example} -- {host} {thing} {certificate} {key} {authority} {port}"
                    ),
                ));
            }
            if let Some((template, _)) = args.templates.first() {
                let directory = shown(&args.dir);
                commands.push((
                    "provision a thing with a template",
                    format!(
                        "cargo run --manifest-path {manifest} --example aws_provisioning -- {host} {template} serial-1 {certificate} {key} {directory} {authority} {port}"
                    ),
                ));
            }
            commands.push((
                "run the fleet file of the examples, with the access key",
                self.fleet(args, &program),
            ));
        }
        commands.push((
            "publish with mosquitto",
            format!("mosquitto_pub -h {host} -p {port} {tls} {hello}"),
        ));
        commands.push((
            "the same through AWS's port 443",
            format!(
                "mosquitto_pub -h {host} -p {shared_port} {tls} --tls-alpn x-amzn-mqtt-ca {hello}"
            ),
        ));
        commands
    }

    /// Things come by the access key, so that they need no files.
    fn fleet(&self, args: &AwsArgs, program: &str) -> String {
        let file = shown(Path::new(FLEET_FILE));
        let mut command = format!(
            "AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY} AWS_SESSION_TOKEN= {program} run -f {file}"
        );
        for (key, value) in [
            ("endpoint", format!("{}:{}", self.host, self.shared.port())),
            ("region", args.region.clone()),
            ("ca_file", self.authority.clone()),
        ] {
            // Writing to a string does not fail.
            let _ = write!(command, " --set platforms.cloud.{key}={value}");
        }
        command
    }

    /// Scripts for Amazon's first SDK, without indentation, as they are copied.
    fn python(&self, args: &AwsArgs) -> String {
        let (certificate, key) = files(&args.dir, &self.thing);
        let authority = args.dir.join("ca.pem");
        let (thing, host, port) = (&self.thing, &self.host, self.mqtt_port);
        let (ip, websocket) = (self.shared.ip(), self.shared.port());
        // The SDK takes a WebSocket's host only when it looks like an endpoint.
        let endpoint = format!("emulator.iot.{}.amazonaws.com", args.region);
        format!(
            "
# Amazon's SDK for Python (pip install AWSIoTPythonSDK)
python3 - <<'END'
from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTClient
client = AWSIoTMQTTClient(\"{thing}\")
client.configureEndpoint(\"{host}\", {port})
client.configureCredentials({authority:?}, {key:?}, {certificate:?})
client.connect()
client.publish(\"dt/{thing}\", \"hello\", 1)
client.disconnect()
END

# the same over WebSocket
python3 - <<'END'
import socket
from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTClient
client = AWSIoTMQTTClient(\"{thing}\", useWebsocket=True)
client.configureEndpoint(\"{endpoint}\", 443)
client.configureSocketFactory(lambda: socket.create_connection((\"{ip}\", {websocket})))
client.configureCredentials({authority:?})
client.configureIAMCredentials(\"{ACCESS_KEY}\", \"{SECRET_KEY}\")
client.connect()
client.publish(\"dt/{thing}\", \"hello\", 1)
client.disconnect()
END
"
        )
    }
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
