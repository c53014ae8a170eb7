//! What a thing does with AWS's services, against the emulator of AWS IoT Core: jobs from their creation to their end, from
//! a claim certificate to a link of one's own, Greengrass discovery, and reports for Device Defender.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use paquebot::aws::{
    Connection, CustomMetric, Defender, DefenderError, DefenderReport, IdentityError,
    IdentityFiles, Job, JobDetails, JobOutcome, Jobs, NetworkStats, PayloadFormat, Provisioning,
    ProvisioningError, RequestError,
};
use paquebot::{Fleet, GroupBuilder, Link};
use paquebot_emulator::aws::Aws;
use paquebot_emulator::aws::services::{Operation, ProvisioningTemplate, ServiceFault};
use serde_json::json;
use tempfile::TempDir;

#[path = "support/support.rs"]
mod support;

use support::fleet::{drain, fleet, online, quick, soon, until};

/// The cloud, and where its certificates are.
struct Cloud {
    aws: Aws,
    folder: TempDir,
}

impl Cloud {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let aws = Aws::builder().directory(folder.path().join("aws"));
        let aws = soon("the emulator is there", aws.start()).await.unwrap();
        Self { aws, folder }
    }

    fn authority(&self) -> PathBuf {
        self.aws.authority_path().unwrap()
    }

    /// A group that connects to the emulator, without a certificate.
    fn group(&self, fleet: &Fleet, name: &str) -> GroupBuilder {
        let connection = Connection::mutual_tls("localhost").port(self.aws.mqtt_address().port());
        fleet
            .group(name)
            .aws(connection)
            .ca_file(self.authority())
            .backoff(quick())
    }

    /// Certificate and key of a client that the emulator knows.
    fn certificate(&self, name: &str) -> (PathBuf, PathBuf) {
        let paths = self.aws.client_certificate(name).unwrap().paths.unwrap();
        (paths.certificate, paths.private_key)
    }

    async fn link(&self, fleet: &Fleet, name: &str) -> Link {
        let (certificate, key) = self.certificate(name);
        let group = self.group(fleet, "things");
        let group = group.client_certificate(certificate, key).build().unwrap();
        let link = group.device(name).unwrap().start().unwrap();
        online(&link).await;
        link
    }

    fn files(&self, name: &str) -> IdentityFiles {
        let at = |end: &str| self.folder.path().join(format!("{name}.{end}"));
        IdentityFiles::new(at("pem"), at("key"))
    }

    fn reject(&self, operation: Operation, status: u16, code: &str) {
        let fault = ServiceFault::Reject {
            status,
            code: code.to_owned(),
            message: "on purpose".to_owned(),
        };
        self.inject(operation, fault);
    }

    fn inject(&self, operation: Operation, fault: ServiceFault) {
        self.aws
            .services(|services| services.inject(operation, fault, 1));
    }

    fn create_job(&self, id: &str) {
        let document = json!({"operation": id});
        self.aws
            .tell(|services, now| services.create_job(id, &document, &["pump"], now))
            .unwrap();
    }

    fn status(&self, job: &str) -> String {
        let all = self
            .aws
            .services(|services| services.job_executions("pump"));
        let one = all.iter().find(|execution| execution.job_id == job);
        format!("{:?}", one.unwrap().status)
    }
}

#[tokio::test]
async fn jobs_go_from_their_creation_to_their_ends() {
    let cloud = Cloud::start().await;
    let fleet = fleet();
    let link = cloud.link(&fleet, "pump").await;
    let jobs = Jobs::of(&link.device()).unwrap();
    let mut pending = jobs.notify().await.unwrap();
    soon("it is subscribed", pending.ready()).await.unwrap();
    cloud.create_job("reboot");
    let told = soon("it is told", pending.next()).await.unwrap();
    assert_eq!(told.queued[0].job_id, "reboot");
    let list = soon("it answers", jobs.pending()).await.unwrap();
    assert_eq!(list.queued[0].job_id, "reboot");
    cloud.create_job("burn");
    cloud.create_job("refuse");

    // The emulator answers out of turn now and then: one answer is lost, one is another's, one comes twice.
    cloud.inject(Operation::JobsStartNext, ServiceFault::WrongToken);
    cloud.inject(Operation::JobUpdate, ServiceFault::Duplicate);
    let hasty = jobs.clone().with_deadline(Duration::from_millis(500));
    let serving = hasty.serve(|job: Job| async move {
        assert_eq!(job.document().unwrap()["operation"], job.id());
        match job.id() {
            "reboot" => {
                job.progress([("step", "going down")]).await.unwrap();
                job.progress([("step", "coming up")]).await.unwrap();
                JobOutcome::Succeeded(JobDetails::new())
            }
            "burn" => JobOutcome::Failed([("reason", "no fire")].into()),
            _ => JobOutcome::Rejected(JobDetails::new()),
        }
    });
    let script = async {
        for (job, status) in [
            ("reboot", "Succeeded"),
            ("burn", "Failed"),
            ("refuse", "Rejected"),
        ] {
            until("it ends", || cloud.status(job) == status).await;
        }
        cloud.create_job("late");
        until("it ends", || cloud.status("late") == "Rejected").await;
        link.stop().await;
    };
    let (result, ()) = soon("all is done", async { tokio::join!(serving, script) }).await;
    result.unwrap();
    let ended = cloud
        .aws
        .services(|services| services.job_executions("pump"));
    assert_eq!(ended[0].status_details["step"], "coming up");
    assert_eq!(ended[1].status_details["reason"], "no fire");
    drain(&fleet).await;
    cloud.aws.broker().stop().await;
}

#[tokio::test]
async fn a_job_is_done_once_whatever_becomes_of_the_connection() {
    let cloud = Cloud::start().await;
    let fleet = fleet();
    let link = cloud.link(&fleet, "pump").await;
    let jobs = Jobs::of(&link.device()).unwrap();
    cloud.create_job("reboot");
    let runs = std::cell::Cell::new(0);
    let serving = jobs.serve(|_| {
        runs.set(runs.get() + 1);
        let mut events = link.events();
        link.reconnect();
        async move {
            support::fleet::online_again(&mut events).await;
            JobOutcome::Succeeded(JobDetails::new())
        }
    });
    let script = async {
        until("it ends", || cloud.status("reboot") == "Succeeded").await;
        link.stop().await;
    };
    let (result, ()) = soon("all is done", async { tokio::join!(serving, script) }).await;
    result.unwrap();
    assert_eq!(runs.get(), 1);
    drain(&fleet).await;
    cloud.aws.broker().stop().await;
}

#[tokio::test]
async fn a_handler_is_told_of_a_job_that_the_cloud_took_back() {
    let cloud = Cloud::start().await;
    let fleet = fleet();
    let link = cloud.link(&fleet, "pump").await;
    let jobs = Jobs::of(&link.device()).unwrap();
    cloud.create_job("reboot");
    let serving = jobs.serve(|job: Job| async move {
        job.ended().await;
        JobOutcome::Succeeded(JobDetails::new())
    });
    let script = async {
        until("it runs", || cloud.status("reboot") == "InProgress").await;
        cloud
            .aws
            .tell(|services, now| services.cancel_job("reboot", true, now))
            .unwrap();
        cloud.create_job("next");
        until("the next one runs", || cloud.status("next") == "InProgress").await;
        assert_eq!(cloud.status("reboot"), "Canceled");
        link.stop().await;
    };
    // The second job has no end: the serving is given up.
    soon("all is done", async {
        tokio::select! {
            result = serving => result.unwrap(),
            () = script => {}
        }
    })
    .await;
    drain(&fleet).await;
    cloud.aws.broker().stop().await;
}

async fn provisioned_link_connects(format: PayloadFormat, own_key: bool) {
    let cloud = Cloud::start().await;
    let template = ProvisioningTemplate::named_after(
        "SerialNumber",
        "pump-",
        [("interval".to_owned(), "60".to_owned())].into(),
    );
    cloud
        .aws
        .services(|services| services.add_template("pumps", template));
    let fleet = fleet();
    let claim = cloud.link(&fleet, "claim").await;
    let mut provisioning = Provisioning::with_template("pumps")
        .parameter("SerialNumber", "7")
        .format(format);
    if own_key {
        provisioning = with_own_key(provisioning);
    }
    let files = cloud.files("pump");
    let provisioned = provisioning.provision(&claim, files);
    let provisioned = soon("it is provisioned", provisioned).await.unwrap();
    assert_eq!(provisioned.thing_name, "pump-7");
    assert_eq!(provisioned.device_configuration["interval"], "60");
    for path in [provisioned.files.certificate(), provisioned.files.key()] {
        assert!(fs::read_to_string(path).unwrap().starts_with("-----BEGIN"));
    }
    claim.stop().await;

    let things = provisioned.group(cloud.group(&fleet, "things"));
    let link = provisioned.link(&things.build().unwrap()).unwrap();
    let link = link.start().unwrap();
    online(&link).await;
    assert_eq!(link.id().as_str(), "pump-7");
    drain(&fleet).await;
    cloud.aws.broker().stop().await;
}

#[cfg(feature = "aws-csr")]
fn with_own_key(provisioning: Provisioning) -> Provisioning {
    let provisioning = provisioning.own_key("pump-7").unwrap();
    let shown = format!("{provisioning:?}");
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    provisioning
}

#[cfg(not(feature = "aws-csr"))]
fn with_own_key(provisioning: Provisioning) -> Provisioning {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default();
    let request = request.serialize_request(&key).unwrap().pem().unwrap();
    provisioning.signing_request(request, key.serialize_pem())
}

#[tokio::test]
async fn a_claim_becomes_a_thing_whose_link_connects() {
    provisioned_link_connects(PayloadFormat::Json, false).await;
}

#[tokio::test]
async fn a_claim_becomes_a_thing_in_cbor_with_a_key_of_its_own() {
    provisioned_link_connects(PayloadFormat::Cbor, true).await;
}

#[tokio::test]
async fn two_devices_over_one_claim_link_never_share_a_key() {
    let cloud = Cloud::start().await;
    let template = ProvisioningTemplate::named_after("SerialNumber", "pump-", [].into());
    cloud
        .aws
        .services(|services| services.add_template("pumps", template));
    let fleet = fleet();
    let claim = cloud.link(&fleet, "claim").await;
    let one = |serial: &str| Provisioning::with_template("pumps").parameter("SerialNumber", serial);
    let (first, second) = (one("1"), one("2"));
    let both = soon("both ended", async {
        tokio::join!(
            first.provision(&claim, cloud.files("first")),
            second.provision(&claim, cloud.files("second")),
        )
    });
    let (first, refused) = both.await;
    assert!(
        matches!(refused, Err(ProvisioningError::ClaimBusy)),
        "{refused:?}"
    );
    // The turn ends with the one who has it.
    let second = soon(
        "it is provisioned",
        second.provision(&claim, cloud.files("second")),
    );
    let keys = [first.unwrap(), second.await.unwrap()]
        .map(|provisioned| fs::read_to_string(provisioned.files.key()).unwrap());
    assert_ne!(keys[0], keys[1]);

    // The late answer to an earlier try would be for another key.
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let request = rcgen::CertificateParams::default();
    let key = rcgen::KeyPair::generate().unwrap();
    let request = request.serialize_request(&key).unwrap().pem().unwrap();
    let mixed = one("3").signing_request(request, other);
    let refused = soon("it ended", mixed.provision(&claim, cloud.files("third"))).await;
    assert!(
        matches!(refused, Err(ProvisioningError::OtherKey(_))),
        "{refused:?}"
    );
    assert!(!cloud.files("third").key().exists());
    drain(&fleet).await;
    cloud.aws.broker().stop().await;
}

#[tokio::test]
async fn what_goes_wrong_with_provisioning_leaves_no_file() {
    let cloud = Cloud::start().await;
    let fleet = fleet();
    let claim = cloud.link(&fleet, "claim").await;
    let provisioning = Provisioning::with_template("none").deadline(Duration::from_secs(5));
    let attempt = async || {
        let attempt = provisioning.provision(&claim, cloud.files("pump"));
        let error = soon("it ends", attempt).await.unwrap_err();
        assert!(!cloud.files("pump").key().exists());
        error
    };
    let ProvisioningError::Rejected(refusal) = attempt().await else {
        unreachable!("there is no such template");
    };
    assert_eq!(
        (refusal.status, refusal.code.as_str()),
        (Some(404), "ResourceNotFound")
    );

    cloud.reject(Operation::CreateKeysAndCertificate, 429, "Throttled");
    let error = attempt().await.to_string();
    assert_eq!(
        error,
        "fleet provisioning answered Throttled (429): on purpose"
    );

    cloud.inject(Operation::CreateKeysAndCertificate, ServiceFault::Malformed);
    let error = attempt().await;
    assert!(
        matches!(
            error,
            ProvisioningError::Request(RequestError::Unreadable(_))
        ),
        "{error}"
    );

    fs::write(cloud.files("pump").certificate(), "old").unwrap();
    let error = attempt().await;
    assert!(
        matches!(error, ProvisioningError::Files(IdentityError::Exists(_))),
        "{error}"
    );
    drain(&fleet).await;
    cloud.aws.broker().stop().await;
}

#[tokio::test]
async fn reports_for_device_defender_are_taken_with_rising_numbers() {
    let cloud = Cloud::start().await;
    let fleet = fleet();
    let link = cloud.link(&fleet, "pump").await;
    for format in [PayloadFormat::Json, PayloadFormat::Cbor] {
        let defender = Defender::with_format(&link.device(), format).unwrap();
        let report = DefenderReport {
            network: Some(NetworkStats {
                bytes_in: 1,
                ..NetworkStats::default()
            }),
            custom: [("heat".to_owned(), CustomMetric::Number(21.5))].into(),
            ..DefenderReport::default()
        };
        let first = soon("it is taken", defender.report(&report)).await;
        let told = match first {
            Ok(id) => {
                let last = cloud
                    .aws
                    .services(|services| services.last_metrics_report("pump"));
                let last = last.unwrap();
                assert_eq!(last["header"]["report_id"], id);
                assert_eq!(last["custom_metrics"]["heat"][0]["number"], 21.5);
                Some(id)
            }
            // The report before was in the last five minutes.
            Err(DefenderError::Rejected(refusal)) if refusal.code == "Throttled" => None,
            Err(error) => unreachable!("{error}"),
        };
        assert_eq!(told.is_some(), format == PayloadFormat::Json);
        cloud.reject(Operation::DefenderMetrics, 400, "InvalidPayload");
        let error = soon("it is refused", defender.report(&report)).await;
        let DefenderError::Rejected(refusal) = error.unwrap_err() else {
            unreachable!("it is refused");
        };
        assert_eq!(refusal.code, "InvalidPayload");
    }
    drain(&fleet).await;
    cloud.aws.broker().stop().await;
}

#[cfg(feature = "aws-discovery")]
#[tokio::test]
async fn a_thing_discovers_its_cores() {
    use paquebot::aws::{Discovery, DiscoveryError};
    use paquebot_emulator::aws::services::{CoreConnectivity, GreengrassCore, GreengrassGroup};

    let cloud = Cloud::start().await;
    let (certificate, key) = cloud.certificate("pump");
    let discovery = Discovery::new("localhost").ca_file(cloud.authority());
    let discovery = discovery.client_certificate(&certificate, &key);
    let entrances = [
        discovery.clone().port(cloud.aws.https_address().port()),
        discovery.over_443().port(cloud.aws.shared_address().port()),
    ];
    for discovery in &entrances {
        let error = soon("it answers", discovery.discover("pump")).await;
        let error = error.unwrap_err();
        assert!(matches!(error, DiscoveryError::NotFound(_)), "{error}");
    }
    let group = GreengrassGroup {
        group_id: "plant".to_owned(),
        cores: vec![GreengrassCore {
            thing_arn: "arn:aws:iot:eu-central-1:1:thing/core".to_owned(),
            connectivity: vec![CoreConnectivity {
                id: "a".to_owned(),
                host_address: "192.0.2.1".to_owned(),
                port: 8883,
                metadata: String::new(),
            }],
        }],
        certificate_authorities: vec![cloud.aws.authority_pem().to_owned()],
    };
    cloud
        .aws
        .services(|services| services.set_discovery("pump", vec![group]));
    for discovery in &entrances {
        let groups = soon("it answers", discovery.discover("pump"))
            .await
            .unwrap();
        assert_eq!(
            groups[0].cores[0].connectivity[0].url(),
            "mqtts://192.0.2.1:8883"
        );
        assert_eq!(
            groups[0].authorities_pem().trim_end(),
            cloud.aws.authority_pem().trim_end()
        );
        for (status, is_it) in [
            (
                400,
                (|error| matches!(error, DiscoveryError::InvalidRequest(_))) as fn(&_) -> bool,
            ),
            (401, |error| {
                matches!(error, DiscoveryError::Unauthorized { .. })
            }),
            (429, |error| matches!(error, DiscoveryError::Throttled(_))),
            (500, |error| {
                matches!(error, DiscoveryError::Refused { status: 500, .. })
            }),
        ] {
            cloud.reject(Operation::Discovery, status, "");
            let error = soon("it answers", discovery.discover("pump"))
                .await
                .unwrap_err();
            assert!(is_it(&error), "{error}");
            assert!(error.to_string().contains("on purpose"), "{error}");
        }
    }
    let nobody = Discovery::new("localhost").port(cloud.aws.https_address().port());
    let nobody = nobody.ca_file(cloud.authority());
    assert!(soon("it ends", nobody.discover("pump")).await.is_err());
    cloud.aws.broker().stop().await;
}
