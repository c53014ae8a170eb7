//! Flags and variables over the file.

use std::path::Path;
use std::time::Duration;

use paquebot::fleet_file::Overrides;
use paquebot_protocols::mqtt::Version;

use crate::{GOOD, parse_in, shown, with};

#[test]
fn overrides_win_over_the_file_and_flags_over_the_environment() {
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let environment = Overrides::none().with_environment([
        variable("PAQUEBOT__FLEET__CONNECT_RATE", "50"),
        variable("PAQUEBOT__FLEET__NAME", "from-env"),
        variable("PAQUEBOT__GROUPS__LAB__COUNT", "20"),
        variable("PAQUEBOT__PLATFORMS__LOCAL__KEEP_ALIVE", "5s"),
        variable("PAQUEBOT_LOG", "debug"),
        variable("HOME", "/root"),
    ]);
    let plan = parse_in(Path::new(""), GOOD, &environment).unwrap();
    assert_eq!(plan.connect_rate, Some(50.0));
    assert_eq!(&*plan.name, "from-env");
    assert_eq!(plan.groups[0].count, 20);
    assert_eq!(plan.platforms[0].keep_alive, Duration::from_secs(5));
    let both = environment.with_sets(
        [
            "groups.lab.count=30",
            "groups.0.id = 'dev-{{index}}'",
            "fleet.name=7",
            "models.meter.interval={ every = \"2s\", jitter = \"1s\" }",
            "admin.listen=127.0.0.1:0",
        ]
        .map(String::from),
    );
    let plan = parse_in(Path::new(""), GOOD, &both).unwrap();
    assert_eq!(plan.groups[0].count, 30);
    assert_eq!(plan.groups[0].device(3).id, "dev-3");
    assert_eq!(&*plan.name, "7");
    let telemetry = plan.models[0].telemetry.as_ref().unwrap();
    assert_eq!(telemetry.interval.every, Duration::from_secs(2));
    assert_eq!(plan.admin.as_ref().unwrap().listen.port(), 0);
}

#[test]
fn a_variable_reaches_names_that_it_cannot_spell() {
    let text = GOOD
        .replace("\"lab\"", "\"Lab-1.a\"")
        .replace("local", "my-broker");
    let overrides = Overrides::none().with_environment([
        (
            "PAQUEBOT__GROUPS__LAB_1_A__COUNT".to_owned(),
            "2".to_owned(),
        ),
        (
            "PAQUEBOT__PLATFORMS__MY_BROKER__VERSION".to_owned(),
            "5".to_owned(),
        ),
    ]);
    let plan = parse_in(Path::new(""), &text, &overrides).unwrap();
    assert_eq!(plan.groups[0].count, 2);
    assert_eq!(plan.platforms[0].version, Version::V5);
}

#[test]
fn mistakes_in_overrides_name_the_override() {
    let overrides = Overrides::none()
        .with_environment([("PAQUEBOT__FLEET__CONECT_RATE".to_owned(), "50".to_owned())])
        .with_sets(
            [
                "groups.lap.count=3",
                "groups.lab.count=many",
                "groups.lab.id=a{{x}}",
                "fleet",
                "=1",
                "models.meter.interval.every=1s",
            ]
            .map(String::from),
        );
    let found = shown(&parse_in(Path::new(""), GOOD, &overrides).unwrap_err());
    let expected = [
        "--set groups.lap.count: groups: nothing here is named `lap`; did you mean `lab`?",
        "--set fleet: this is no override; ",
        "--set : this is no override; ",
        "--set models.meter.interval.every: models.meter.interval: this is a text, nothing is below it; ",
        "PAQUEBOT__FLEET__CONECT_RATE: fleet.conect_rate: there is no such key; did you mean `connect_rate`?",
        "--set groups.lab.count: groups[0].count: this is a text, not a whole number; ",
        "--set groups.lab.id: groups[0].id: character 4: there is no placeholder {{x}}; ",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn an_override_repairs_what_the_file_has_wrong() {
    let text = with("count = 10", "count = -1");
    let overrides = Overrides::none().with_sets(["groups.lab.count=1".to_owned()]);
    assert_eq!(
        parse_in(Path::new(""), &text, &overrides)
            .unwrap()
            .device_count(),
        1
    );
}
