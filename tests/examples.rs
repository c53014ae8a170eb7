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

/// Where an example is; it was built with the tests.
fn example(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let target = program.parent().and_then(|deps| deps.parent()).unwrap();
    target.join("examples").join(name)
}

/// What an example prints.
fn output_of(name: &str) -> String {
    let output = Command::new(example(name)).output().unwrap();
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
async fn a_thing_does_the_jobs_of_the_emulated_cloud() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Aws::builder().directory(folder.path());
    let cloud = cloud.start().await.unwrap();
    let paths = cloud.client_certificate("pump-1").unwrap().paths.unwrap();
    let _thing = tokio::process::Command::new(example("aws_jobs"))
        .args(["localhost", "pump-1"])
        .args([paths.certificate, paths.private_key])
        .arg(cloud.authority_path().unwrap())
        .arg(cloud.mqtt_address().port().to_string())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let document = serde_json::json!({"operation": "reboot"});
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
    let step = tokio::time::timeout(Duration::from_secs(60), succeeded).await;
    assert_eq!(step.unwrap(), "up again");
    cloud.broker().stop().await;
}
