//! Certificates, keys and passwords.

use std::fs;

use paquebot::fleet_file::{AuthPlan, Overrides};

use crate::{parse_in, shown, with, with_line};

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";

/// A certificate and its key.
fn pair() -> (String, String) {
    let made = rcgen::KeyPair::generate().and_then(|key| {
        let certificate = rcgen::CertificateParams::default().self_signed(&key)?;
        Ok((certificate.pem(), key.serialize_pem()))
    });
    made.unwrap_or_else(|error| panic!("{error}"))
}

fn x509_file() -> String {
    with("mqtt://127.0.0.1:1883", "mqtts://127.0.0.1").replace(
        "[models.meter]",
        "ca_file = \"ca.pem\"\nauth = { type = \"x509\", cert = \"certs/{{id}}.pem\", key = \"certs/{{id}}.key\" }\n[models.meter]",
    )
}

#[test]
fn each_device_needs_its_certificate_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("certs")).unwrap();
    fs::write(path("ca.pem"), CERTIFICATE).unwrap();
    let write_pair = |index: u32| {
        let (certificate, key) = pair();
        fs::write(path(&format!("certs/lab-00000{index}.pem")), certificate).unwrap();
        fs::write(path(&format!("certs/lab-00000{index}.key")), key).unwrap();
    };
    (0..10).for_each(write_pair);
    let read = || parse_in(dir.path(), &x509_file(), &Overrides::none());
    let plan = read().unwrap();
    let group = &plan.groups[0];
    let AuthPlan::X509 { cert, username, .. } = &group.platform.auth else {
        panic!("{:?}", group.platform.auth);
    };
    let device = group.device(3);
    assert_eq!(
        cert.path(&group.subject(&device)),
        path("certs/lab-000003.pem")
    );
    assert!(username.is_none());
    let tls = group.platform.tls.as_ref().unwrap();
    assert_eq!(tls.ca_file.as_deref(), Some(path("ca.pem").as_path()));

    // A key that is not its certificate's, and another.
    for index in [3, 7] {
        fs::write(path(&format!("certs/lab-00000{index}.key")), pair().1).unwrap();
    }
    let found = shown(&read().unwrap_err());
    assert_eq!(found.len(), 1, "{found:#?}");
    for part in [
        "auth.key: ",
        "lab-000003.pem and the key",
        "lab-000003.key",
        "(1 more pairs",
    ] {
        assert!(found[0].contains(part), "{part}: {}", found[0]);
    }
    [3, 7].into_iter().for_each(write_pair);
    read().unwrap();

    fs::remove_file(path("certs/lab-000002.pem")).unwrap();
    fs::remove_file(path("certs/lab-000009.pem")).unwrap();
    fs::write(path("certs/lab-000004.key"), CERTIFICATE).unwrap();
    fs::write(path("ca.pem"), "nothing").unwrap();
    let found = shown(&read().unwrap_err());
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(
        found[0].contains("ca_file: ") && found[0].contains("no PEM certificate"),
        "{}",
        found[0]
    );
    assert!(found[1].contains("auth.cert: "), "{}", found[1]);
    assert!(
        found[1].contains("lab-000002.pem of device lab-000002 cannot be used"),
        "{}",
        found[1]
    );
    assert!(found[1].contains("1 more of the 10 files"), "{}", found[1]);
    assert!(
        found[2].contains("lab-000004.key") && found[2].contains("no PEM private key"),
        "{}",
        found[2]
    );
}

#[test]
fn an_encrypted_key_is_told_from_a_missing_one() {
    let dir = tempfile::tempdir().unwrap();
    let text = x509_file()
        .replace("certs/{{id}}", "one")
        .replace("ca.pem", "one.pem");
    fs::write(dir.path().join("one.pem"), CERTIFICATE).unwrap();
    fs::write(
        dir.path().join("one.key"),
        KEY.replace("PRIVATE", "ENCRYPTED PRIVATE"),
    )
    .unwrap();
    let found = shown(&parse_in(dir.path(), &text, &Overrides::none()).unwrap_err());
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].contains("one.key cannot be used: the key is encrypted"),
        "{}",
        found[0]
    );
}

#[test]
fn a_certificate_needs_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = pair();
    fs::write(dir.path().join("c.pem"), format!("{certificate}{key}")).unwrap();
    let auth = "auth = { type = \"x509\", cert = \"c.pem\", key = \"c.pem\" }";
    let text = with_line("[platforms.local]", auth);
    let found = shown(&parse_in(dir.path(), &text, &Overrides::none()).unwrap_err());
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("mqtts://"), "{}", found[0]);
}

#[test]
fn passwords_come_from_files_or_variables_and_are_never_shown() {
    use secrecy::ExposeSecret;

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pw-lab-000000"), "hunter2\r\n").unwrap();
    let auth =
        "auth = { type = \"password\", username = \"u-{{id}}\", password_file = \"pw-{{id}}\" }";
    let text = with_line("[platforms.local]", auth).replace("count = 10", "count = 1");
    let plan = parse_in(dir.path(), &text, &Overrides::none()).unwrap();
    let group = &plan.groups[0];
    let AuthPlan::Password { username, password } = &group.platform.auth else {
        panic!("{:?}", group.platform.auth);
    };
    let device = group.device(0);
    let subject = group.subject(&device);
    assert_eq!(username.render(&subject), "u-lab-000000");
    assert_eq!(password.read(&subject).unwrap().expose_secret(), b"hunter2");

    fs::write(dir.path().join("pw-lab-000000"), "\n").unwrap();
    let found = shown(&parse_in(dir.path(), &text, &Overrides::none()).unwrap_err());
    assert!(
        found[0].contains("auth.password_file: ") && found[0].contains("it is empty"),
        "{}",
        found[0]
    );

    for misplaced in ["password_env = \"hunter2\"", "password = \"hunter2\""] {
        let text = text.replace("password_file = \"pw-{{id}}\"", misplaced);
        let problems = parse_in(dir.path(), &text, &Overrides::none()).unwrap_err();
        assert!(!format!("{problems:?}").contains("hunter2"), "{problems:?}");
    }

    let text = text.replace(
        "password_file = \"pw-{{id}}\"",
        "password_env = \"LAB_PASSWORD\"",
    );
    let overrides =
        Overrides::none().with_environment([("LAB_PASSWORD".to_owned(), "hunter2".to_owned())]);
    let plan = parse_in(dir.path(), &text, &overrides).unwrap();
    let shown = format!("{plan:?}{overrides:?}");
    assert!(!shown.contains("hunter2"));
    assert!(!shown.contains(&format!("{:?}", b"hunter2")));
    assert!(plan.warnings.is_empty());
    let remote = text.replace("127.0.0.1:1883", "broker.example");
    let plan = parse_in(dir.path(), &remote, &overrides).unwrap();
    assert!(
        plan.warnings[0].contains("clear text"),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn a_missing_file_is_told_beside_a_mistake_in_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let file = x509_file().replace("interval = \"30s\"", "interval = \"30 parsecs\"");
    let found = shown(&parse_in(dir.path(), &file, &Overrides::none()).unwrap_err());
    for words in [
        "30 parsecs",
        "ca.pem cannot be used",
        "lab-000000.pem",
        "lab-000000.key",
    ] {
        let count = found.iter().filter(|line| line.contains(words)).count();
        assert_eq!(count, 1, "{words}: {found:#?}");
    }
}

#[test]
fn a_replacement_that_was_interrupted_is_told_and_not_finished() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("certs")).unwrap();
    let ((old, _), (new, key)) = (pair(), pair());
    fs::write(path("ca.pem"), &old).unwrap();
    let file = x509_file().replace("count = 10", "count = 1");
    fs::write(path("certs/lab-000000.pem"), &old).unwrap();
    fs::write(path("certs/lab-000000.key"), key).unwrap();
    fs::write(path("certs/lab-000000.pem.next"), &new).unwrap();
    let plan = parse_in(dir.path(), &file, &Overrides::none()).unwrap();
    let told = plan
        .warnings
        .iter()
        .find(|warning| warning.contains("was interrupted"));
    let told = told.unwrap_or_else(|| panic!("{:?}", plan.warnings));
    assert!(
        told.contains("lab-000000.pem.next") && told.contains("when they connect"),
        "{told}"
    );
    let read = |name: &str| fs::read_to_string(path(name)).unwrap();
    assert_eq!(read("certs/lab-000000.pem"), old);
    assert_eq!(read("certs/lab-000000.pem.next"), new);
}
