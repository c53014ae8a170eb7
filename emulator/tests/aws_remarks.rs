//! What the log says at its default level of clients that are turned away.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paquebot_emulator::Broker;
use paquebot_emulator::aws::{Authorizer, Aws, AwsSettings, Permissions};
use paquebot_emulator::mqtt::{
    Connect, Packet, Properties, Publish, QoS, ReasonCode, Subscribe, Subscription, Version,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::subscriber::DefaultGuard;

use crate::aws_entrances::{dial, dial_trusting, exchange, upgrade};
use crate::support::*;

/// The lines of this thread, on which all of a test runs.
struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: DefaultGuard,
}

#[derive(Clone)]
struct Writer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let writer = Writer(Arc::clone(&text));
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        Self {
            text,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// The lines so far, which are forgotten.
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.text.lock().unwrap());
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for a line, the only one, and looks for texts in it.
    #[track_caller]
    fn expect(&self, wanted: &[&str]) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let come = async {
                while self.text.lock().unwrap().is_empty() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let come = tokio::time::timeout(PATIENCE, come).await;
            assert!(come.is_ok(), "nothing was said, {wanted:?} at {place}");
            let lines = self.take();
            assert_eq!(lines.len(), 1, "{lines:#?} at {place}");
            for text in wanted {
                assert!(
                    lines[0].contains(text),
                    "{text:?} is not in {lines:?} at {place}"
                );
            }
        }
    }
}

async fn aws() -> Aws {
    aws_with(AwsSettings::default()).await
}

async fn aws_with(settings: AwsSettings) -> Aws {
    let everybody = Authorizer::new("everybody").password("s3cret");
    let builder = Aws::builder().settings(settings).authorizer(everybody);
    builder
        .access_key("AKIDEXAMPLE", "s3cret", None)
        .start()
        .await
        .unwrap()
}

fn packet(client_id: &str) -> Connect {
    let mut connect = connect_packet(client_id, Version::V311);
    connect.username = Some("u".into());
    connect.password = Some((&b"s3cret"[..]).into());
    connect
}

async fn connect(aws: &Aws, client_id: &str) -> Client {
    Client::accepted(aws.broker(), packet(client_id)).await.0
}

async fn refused(aws: &Aws, connect: Connect) -> ReasonCode {
    let (_, connack) = Client::answered(aws.broker(), connect).await;
    connack.reason_code
}

fn message(topic: &str, bytes: usize) -> Publish {
    publish(topic, vec![b'x'; bytes], QoS::AtMostOnce, 0)
}

#[tokio::test]
async fn a_message_that_closes_the_connection_is_told_with_its_client_and_the_rule() {
    let log = Log::start();
    let aws = aws().await;
    let levels = "l/".repeat(8) + "l";
    for (publish, wanted) in [
        (
            message(&levels, 0),
            [&*levels, "9 levels", "AWS quota: slashes"],
        ),
        (
            message("t", 131_073),
            [
                "\"t\"",
                "131073 bytes, of at most 131072",
                "AWS quota: payload",
            ],
        ),
        (
            message(&"t".repeat(257), 0),
            ["…", "257 bytes, of at most 256", "AWS quota: size"],
        ),
        (
            message("$aws/nowhere", 0),
            ["$aws/nowhere", "no service", "AWS: reserved"],
        ),
    ] {
        let mut client = connect(&aws, "pump").await;
        client.send(Packet::Publish(publish)).await;
        client.expect_closed().await;
        log.expect(&wanted).await;
    }
    let mut client = connect(&aws, "fan").await;
    let filters = (0..9).map(|n| Subscription::new(filter(&format!("f/{n}")), QoS::AtMostOnce));
    let subscribe = Subscribe {
        packet_id: id(1),
        filters: filters.collect(),
        properties: Properties::EMPTY,
    };
    client.send(Packet::Subscribe(subscribe)).await;
    client.expect_closed().await;
    let wanted = [
        "client \"fan\" with principal \"everybody\"",
        "9 filters, of at most 8",
    ];
    log.expect(&wanted).await;
}

#[tokio::test]
async fn what_stays_unanswered_or_is_refused_is_told_too() {
    let log = Log::start();
    let aws = aws().await;
    let mut client = connect(&aws, "pump").await;
    let publish = publish("t", "x", QoS::ExactlyOnce, 1);
    client.send(Packet::Publish(publish)).await;
    client.expect_nothing().await;
    log.expect(&["\"pump\"", "left unanswered", "QoS 2"]).await;
    for number in 0..51 {
        client
            .subscribe(&format!("f/{number}"), QoS::AtMostOnce)
            .await;
    }
    let wanted = [
        "\"f/50\" is refused",
        "AWS quota: subscriptions of a connection",
    ];
    log.expect(&wanted).await;
    let other = connect(&aws, "pump").await;
    client.expect_closed().await;
    log.expect(&["\"pump\"", "one connection for each client identifier"])
        .await;
    drop(other);
}

#[tokio::test]
async fn what_a_policy_refuses_is_told_with_what_it_allows() {
    let log = Log::start();
    let aws = aws().await;
    let own = Permissions::none()
        .allow_connect("pump")
        .allow_publish("dt/${clientId}/*")
        .allow_subscribe("cmd/*");
    aws.set_permissions("everybody", Some(own));
    assert_eq!(refused(&aws, packet("fan")).await, ReasonCode(7));
    log.expect(&["\"fan\"", "CONNACK 7", "iot:Connect", "it allows \"pump\""])
        .await;
    let mut client = connect(&aws, "pump").await;
    client.subscribe("other", QoS::AtMostOnce).await;
    log.expect(&["iot:Subscribe", "\"other\"", "it allows \"cmd/*\""])
        .await;
    client.send(Packet::Publish(message("dt/fan/x", 0))).await;
    client.expect_closed().await;
    log.expect(&["iot:Publish", "\"dt/fan/x\"", "it allows \"dt/pump/*\""])
        .await;
}

#[tokio::test]
async fn who_is_not_let_in_is_told_without_a_secret() {
    let log = Log::start();
    let aws = aws().await;
    let mut guess = packet("pump");
    guess.password = Some((&b"gu3ss"[..]).into());
    let mut stranger = packet("pump2");
    stranger.username = Some("u?x-amz-customauthorizer-name=wall".into());
    for (connect, code, says) in [
        (guess, 7, "password"),
        (stranger, 7, "no custom authorizer \"wall\""),
        (packet("$pump"), 2, "begins with $"),
        (packet(&"p".repeat(129)), 2, "129 bytes, of at most 128"),
    ] {
        assert_eq!(refused(&aws, connect).await, ReasonCode(code));
        let line = log.text.lock().unwrap().clone();
        assert!(!String::from_utf8(line).unwrap().contains("s3"), "a secret");
        log.expect(&[says, &format!("CONNACK {code}")]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_tries_again_and_again_is_told_once_in_a_while() {
    let log = Log::start();
    let aws = aws().await;
    for _ in 0..20 {
        assert_eq!(refused(&aws, packet("$pump")).await, ReasonCode(2));
    }
    assert_eq!(log.take().len(), 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    refused(&aws, packet("$pump")).await;
    log.expect(&["(19 more since"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_slowed_down_is_told() {
    let log = Log::start();
    let aws = aws().await;
    let mut client = connect(&aws, "pump").await;
    for _ in 0..102 {
        client.send(Packet::Publish(message("t", 1))).await;
    }
    client.expect_nothing().await;
    let wanted = [
        "\"pump\"",
        "it is not read from for",
        "more than 100 messages",
    ];
    log.expect(&wanted).await;
}

#[tokio::test]
async fn a_certificate_that_is_missing_or_a_strangers_is_told() {
    let log = Log::start();
    let aws = aws().await;
    let stranger = Aws::builder().start().await.unwrap();
    let stranger = stranger.client_certificate("pump").unwrap();
    let address = aws.mqtt_address();
    let _ = dial(&aws, address, None, None).await;
    log.expect(&["127.0.0.1:", "it showed no client certificate"])
        .await;
    let _ = dial(&aws, address, None, Some(&stranger)).await;
    log.expect(&["another authority signed its certificate"])
        .await;
    let other = Aws::builder().start().await.unwrap();
    let _ = dial_trusting(other.authority_pem(), address, None, None).await;
    log.expect(&["does not trust the authority of the server's certificate"])
        .await;
    let shared = aws.shared_address();
    let mut stream = dial(&aws, shared, Some("x-amzn-mqtt-ca"), None)
        .await
        .unwrap();
    let _ = stream.read(&mut [0]).await;
    log.expect(&["x-amzn-mqtt-ca", "no client certificate"])
        .await;
}

#[tokio::test]
async fn the_certificate_is_named_by_its_thing() {
    let log = Log::start();
    let aws = aws().await;
    let certificate = aws.client_certificate("pump").unwrap();
    let stream = dial(&aws, aws.mqtt_address(), None, Some(&certificate)).await;
    let client = Client::new(stream.unwrap(), Version::V311);
    let (mut client, _) = client.introduce(connect_packet("p", Version::V311)).await;
    client.send(Packet::Publish(message("$aws/x", 0))).await;
    client.expect_closed().await;
    let short = &certificate.certificate_id[..12];
    let wanted = format!("client \"p\" with the certificate {short}… of \"pump\" at 127.0.0.1:");
    log.expect(&[&wanted]).await;
}

#[tokio::test]
async fn plain_mqtt_to_a_tls_port_and_tls_to_a_plain_port_are_named() {
    let log = Log::start();
    let aws = aws().await;
    for address in [
        aws.mqtt_address(),
        aws.shared_address(),
        aws.https_address(),
    ] {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut client = Client::new(stream, Version::V311);
        client.send(Packet::Connect(Box::new(packet("pump")))).await;
        client.expect_closed().await;
        let wanted = format!("plain MQTT to the TLS port {}", address.port());
        // One machine is told of once.
        if address == aws.mqtt_address() {
            log.expect(&[&wanted]).await;
        }
    }
    for address in [aws.shared_address(), aws.https_address()] {
        let mut stream = dial(&aws, address, None, None).await.unwrap();
        let _ = stream
            .write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01a")
            .await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "no MQTT client reads HTTP");
        if address == aws.shared_address() {
            log.expect(&["MQTT where HTTPS", "x-amzn-mqtt-ca (ALPN)"])
                .await;
        }
    }
    let plain = Broker::builder()
        .tcp(([127, 0, 0, 1], 0))
        .start()
        .await
        .unwrap();
    let address = plain.tcp_address().unwrap();
    let refused = dial(&aws, address, None, None).await;
    assert!(refused.is_err());
    log.expect(&["it speaks TLS to a port of plain MQTT"]).await;
    plain.stop().await;
}

#[tokio::test]
async fn mqtt_3_1_is_refused_with_connack_1_and_named() {
    let log = Log::start();
    let aws = aws().await;
    let mut stream = aws.broker().connect_pipe();
    let connect = b"\x10\x0f\0\x06MQIsdp\x03\x02\0\0\0\x01a";
    stream.write_all(connect).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [0x20, 0x02, 0x00, 0x01]);
    log.expect(&["MQTT 3.1 (MQIsdp)", "CONNACK 1"]).await;
}

#[tokio::test]
async fn a_wrong_signature_is_told_with_what_is_wrong() {
    let log = Log::start();
    let aws = aws().await;
    let scope = "AKIDEXAMPLE%2F20260101%2Fus-east-1%2Fiotdata%2Faws4_request";
    let good = format!(
        "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={scope}&X-Amz-Date=20260101T000000Z\
         &X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00"
    );
    for (query, says) in [
        (good.clone(), "s ago and held 60 s"),
        (
            good.replace("us-east-1", "eu-west-1"),
            "\"eu-west-1\", and this is \"us-east-1\"",
        ),
        (
            good.replace("iotdata", "s3"),
            "service in its credential is \"s3\"",
        ),
        (
            good.replace("&X-Amz-Date", "&X-Amz-Data"),
            "X-Amz-Date is missing",
        ),
    ] {
        let stream = dial(&aws, aws.shared_address(), Some("http/1.1"), None).await;
        let request = upgrade(&query, "connection: close\r\n");
        let (head, _) = exchange(&mut stream.unwrap(), &request).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        log.expect(&["GET \"/mqtt\" is refused with 403", says])
            .await;
    }
}
