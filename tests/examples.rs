//! The examples run, and say what they are there to show.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use paquebot_emulator::aws::Aws;
use paquebot_emulator::aws::services::JobStatus;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

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

#[tokio::test]
async fn the_shadow_of_a_thing_is_echoed() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Aws::builder().directory(folder.path());
    let cloud = cloud.start().await.unwrap();
    let paths = cloud.client_certificate("pump-1").unwrap().paths.unwrap();
    let _thing = tokio::process::Command::from(example("aws_shadow"))
        .args(["localhost", "pump-1"])
        .args([paths.certificate, paths.private_key])
        .arg(cloud.authority_path().unwrap())
        .arg(cloud.mqtt_address().port().to_string())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    for n in 1..=3 {
        let desired = json!({"n": n});
        cloud
            .tell(|services, now| services.set_desired("pump-1", None, &desired, now))
            .unwrap();
        let echoed = async {
            loop {
                let shadow = cloud.services(|services| services.shadow("pump-1", None));
                if shadow.is_some_and(|shadow| shadow["state"]["reported"] == desired) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, echoed).await.unwrap();
    }
    cloud.broker().stop().await;
}

#[tokio::test]
async fn a_thing_does_the_jobs_of_the_emulated_cloud() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Aws::builder().directory(folder.path());
    let cloud = cloud.start().await.unwrap();
    let paths = cloud.client_certificate("pump-1").unwrap().paths.unwrap();
    let _thing = tokio::process::Command::from(example("aws_jobs"))
        .args(["localhost", "pump-1"])
        .args([paths.certificate, paths.private_key])
        .arg(cloud.authority_path().unwrap())
        .arg(cloud.mqtt_address().port().to_string())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let document = json!({"operation": "reboot"});
    cloud
        .tell(|services, now| services.create_job("job-1", &document, &["pump-1"], now))
        .unwrap();
    let succeeded = async {
        loop {
            let jobs = cloud.services(|services| services.job_executions("pump-1"));
            if jobs[0].status == JobStatus::Succeeded {
                return jobs[0].status_details["step"].clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let step = tokio::time::timeout(LIMIT, succeeded).await;
    assert_eq!(step.unwrap(), "up again");
    cloud.broker().stop().await;
}
