//! The examples run, and say what they are there to show.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use paquebot_emulator::aws::Aws;
use paquebot_emulator::aws::services::{JobStatus, ProvisioningTemplate, Services};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Child;

const LIMIT: Duration = Duration::from_secs(60);

const THING: &str = "pump-1";

/// An example; it was built with the tests.
fn example(name: &str) -> Command {
    let program = std::env::current_exe().unwrap();
    let target = program.parent().and_then(|deps| deps.parent()).unwrap();
    let example: PathBuf = target.join("examples").join(name);
    Command::new(example)
}

/// What an example prints.
fn output_of(name: &str) -> String {
    let output = example(name).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{name}: {text}");
    text
}

#[test]
fn the_thermostat_measures_obeys_and_answers() {
    let text = output_of("thermostat");
    for line in [
        r#"application: thermostat-1 says [["celsius",21.5]]"#,
        "application: thermostat-1 answers request-1 with ok: blinking",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn the_gateway_speaks_for_its_children() {
    let text = output_of("gateway");
    assert!(
        text.contains("100 of 100 sensors delivered over one session"),
        "{text}"
    );
}

#[test]
fn a_dialect_from_outside_works() {
    let text = output_of("own_dialect");
    for line in ["up/d1: 23.5", "up/d1: did open the valve"] {
        assert!(text.contains(line), "{text}");
    }
}

/// A thing on an emulated cloud, done by an example.
struct Scene {
    cloud: Aws,
    _thing: Child,
    _folder: TempDir,
}

impl Scene {
    async fn set(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cloud = Aws::builder().directory(folder.path());
        let cloud = cloud.start().await.unwrap();
        let paths = cloud.client_certificate(THING).unwrap().paths.unwrap();
        let thing = tokio::process::Command::from(example(name))
            .args(["localhost", THING])
            .args([paths.certificate, paths.private_key])
            .arg(cloud.authority_path().unwrap())
            .arg(cloud.mqtt_address().port().to_string())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            cloud,
            _thing: thing,
            _folder: folder,
        }
    }

    /// What the cloud's services show, once they do.
    async fn shown<T>(&self, look: impl Fn(&mut Services) -> Option<T>) -> T {
        let shown = async {
            loop {
                if let Some(shown) = self.cloud.services(&look) {
                    return shown;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, shown).await.unwrap()
    }
}

#[tokio::test]
async fn the_shadow_of_a_thing_is_echoed() {
    let scene = Scene::set("aws_shadow").await;
    for n in 1..=3 {
        let desired = json!({"n": n});
        scene
            .cloud
            .tell(|services, now| services.set_desired(THING, None, &desired, now))
            .unwrap();
        let echoed = |services: &mut Services| {
            let shadow = services.shadow(THING, None)?;
            (shadow["state"]["reported"] == desired).then_some(())
        };
        scene.shown(echoed).await;
    }
    scene.cloud.broker().stop().await;
}

#[tokio::test]
async fn a_thing_does_the_jobs_of_the_emulated_cloud() {
    let scene = Scene::set("aws_jobs").await;
    let document = json!({"operation": "reboot"});
    scene
        .cloud
        .tell(|services, now| services.create_job("job-1", &document, &[THING], now))
        .unwrap();
    let step = |services: &mut Services| {
        let jobs = services.job_executions(THING);
        (jobs[0].status == JobStatus::Succeeded).then(|| jobs[0].status_details["step"].clone())
    };
    assert_eq!(scene.shown(step).await, "up again");
    scene.cloud.broker().stop().await;
}

#[tokio::test]
async fn a_claim_becomes_a_thing_that_publishes() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Aws::builder().directory(folder.path());
    let cloud = cloud.start().await.unwrap();
    let template = ProvisioningTemplate::named_after("SerialNumber", "pump-", [].into());
    cloud.services(|services| services.add_template("pumps", template));
    let claim = cloud.client_certificate("claim").unwrap().paths.unwrap();
    let provisioning = tokio::process::Command::from(example("aws_provisioning"))
        .args(["localhost", "pumps", "7"])
        .args([claim.certificate, claim.private_key])
        .arg(folder.path())
        .arg(cloud.authority_path().unwrap())
        .arg(cloud.mqtt_address().port().to_string())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, provisioning).await;
    let output = output.unwrap().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told, "provisioned: pump-7\npublished: true\n", "{errors}");
    for file in ["7.pem", "7.key"] {
        assert!(folder.path().join(file).exists(), "{file}");
    }
    cloud.broker().stop().await;
}

#[test]
fn what_goes_wrong_is_said_in_a_sentence() {
    let output = example("aws_shadow")
        .args(["localhost", THING, "missing.pem", "missing.key"])
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("Error: cannot read missing."), "{text}");
}
