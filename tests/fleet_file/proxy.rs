//! The proxies of platforms: addresses, logins, and what is wrong with them.

use std::fs;

use paquebot::fleet_file::{Overrides, PasswordSource};
use paquebot::template::Subject;

use crate::{mistakes, parse, parse_in, plan, with_line};

const PLATFORM: &str = "[platforms.local]";

#[test]
fn a_platform_may_have_a_proxy_with_a_login_or_without() {
    let proxy = |text: &str| plan(text).platforms[0].proxy.clone();
    assert!(proxy(crate::GOOD).is_none());
    let plain = proxy(&with_line(PLATFORM, "proxy = \"http://gate:3128\"")).unwrap();
    assert_eq!(plain.to_string(), "http://gate:3128");
    assert!(plain.login.is_none());

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("gate.password"), "canary\n").unwrap();
    let text = with_line(
        PLATFORM,
        "proxy = { url = \"http://gate\", username = \"crew\", password_file = \"gate.password\" }",
    );
    let plan = parse_in(folder.path(), &text, &Overrides::none()).unwrap();
    let (user, password) = plan.platforms[0].proxy.clone().unwrap().login.unwrap();
    assert_eq!(user, "crew");
    assert!(matches!(password, PasswordSource::File(_)));
    let subject = Subject {
        fleet: "f",
        group: "g",
        index: 0,
        id: "d",
    };
    let secret = password.read(&subject).unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&secret), b"canary");
    assert!(!format!("{plan:?}").contains("canary"));
}

#[test]
fn each_mistake_of_a_proxy_has_its_place_and_repeats_no_secret() {
    for (line, words) in [
        ("proxy = 1", "platforms.local.proxy"),
        ("proxy = \"socks5://gate\"", "no address of an HTTP proxy"),
        (
            "proxy = \"http://u:canary@gate\"",
            "do not belong into the address",
        ),
        (
            "proxy = { username = \"u\" }",
            "platforms.local.proxy.url: it is missing",
        ),
        (
            "proxy = { url = \"http://gate\", username = \"u\" }",
            "platforms.local.proxy.password_file: it is missing",
        ),
        (
            "proxy = { url = \"http://gate\", username = \"u\", password = \"canary\" }",
            "does not belong into the fleet file",
        ),
        (
            "proxy = { url = \"http://gate\", username = \"a:b\", password_file = \"x\" }",
            "no user name of a proxy",
        ),
        (
            "proxy = { url = \"http://gate\", username = \"u\", password_file = \"{{id}}\" }",
            "one password for all devices",
        ),
        (
            "proxy = { url = \"http://gate\", username = \"u\", password_file = \"no-such-file\" }",
            "no-such-file cannot be used",
        ),
        (
            "proxy = { url = \"http://gate\", usr = \"u\" }",
            "there is no such key; known here: url, username",
        ),
    ] {
        let text = with_line(PLATFORM, line);
        assert!(parse(&text).is_err(), "{line}");
        let told = mistakes(&text).join("\n");
        assert!(told.contains(words), "{line}: {told}");
        assert!(told.starts_with("fleet.toml:"), "{told}");
        assert!(!told.contains("canary"), "{told}");
    }
}
