use super::*;

fn decoded(version: Version, sender: Sender, input: &str) -> (String, bool) {
    let mut output = Vec::new();
    let is_good = decode_lines(version, sender, &mut input.as_bytes(), &mut output).unwrap();
    (String::from_utf8(output).unwrap(), is_good)
}

fn encoded(version: Version, input: &str) -> (String, String, bool) {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let is_good = encode_lines(version, &mut input.as_bytes(), &mut output, &mut errors).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output), text(errors), is_good)
}

#[test]
fn a_disconnect_is_shown() {
    let (line, is_good) = decoded(Version::V5, Sender::Server, "e0018e");
    let expected = r#"{"ok":[{"type":"DISCONNECT","reason_code":142,"properties":{}}]}"#;
    assert_eq!(line.trim_end(), expected);
    assert!(is_good);
}

#[test]
fn several_packets_share_a_line_and_spaces_do_not_count() {
    let (line, is_good) = decoded(Version::V311, Sender::Either, " C0 00d0\t0 0 \r\n");
    assert_eq!(
        line,
        "{\"ok\":[{\"type\":\"PINGREQ\"},{\"type\":\"PINGRESP\"}]}\n"
    );
    assert!(is_good);
}

#[test]
fn lines_keep_their_order_over_errors() {
    let input = "c000\nc0\n\nc000 36\nc00\nc0g0\n100c00064d514973647003020000\nd000";
    let (lines, is_good) = decoded(Version::V311, Sender::Client, input);
    let lines: Vec<&str> = lines.lines().collect();
    assert!(!is_good);
    assert_eq!(lines[0], r#"{"ok":[{"type":"PINGREQ"}]}"#);
    assert_eq!(lines[1], r#"{"incomplete":{"packets":[],"missing":null}}"#);
    assert_eq!(lines[2], r#"{"ok":[]}"#);
    assert_eq!(
        lines[3],
        r#"{"error":{"kind":"malformed","clause":"MQTT-3.3.1-4","reason_code":129,"message":"the QoS of PUBLISH is 3"},"packets":[{"type":"PINGREQ"}]}"#
    );
    for index in [4, 5] {
        let start = r#"{"error":{"kind":"malformed","clause":null,"reason_code":null,"#;
        assert!(lines[index].starts_with(start), "{}", lines[index]);
    }
    let start = r#"{"error":{"kind":"unsupported","clause":"MQTT-3.1.2-1","reason_code":132,"#;
    assert!(lines[6].starts_with(start), "{}", lines[6]);
    let start = r#"{"error":{"kind":"protocol","clause":"§2.2.1","reason_code":130,"#;
    assert!(lines[7].starts_with(start), "{}", lines[7]);
    assert_eq!(lines.len(), 8);
}

#[test]
fn a_prefix_tells_what_is_missing() {
    let (line, is_good) = decoded(Version::V311, Sender::Either, "d000 3005 0001");
    let expected = r#"{"incomplete":{"packets":[{"type":"PINGRESP"}],"missing":3}}"#;
    assert_eq!(line.trim_end(), expected);
    assert!(is_good);
}

/// Each packet with all its keys, as decode prints it, and its bytes.
const V311: [(&str, &str); 14] = [
    (
        "102600044d51545404ee003c000364657600067374617475730003\
         01ff00000475736572 00026869",
        r#"{"type":"CONNECT","protocol_name":"MQTT","protocol_level":4,"clean_start":1,"keep_alive":60,"client_id":"dev","will":{"qos":1,"retain":1,"topic":"status","payload":"01ff00"},"username":"user","password":"6869"}"#,
    ),
    (
        "100f00044d515454040200000003646576",
        r#"{"type":"CONNECT","protocol_name":"MQTT","protocol_level":4,"clean_start":1,"keep_alive":0,"client_id":"dev","will":null,"username":null,"password":null}"#,
    ),
    (
        "20020005",
        r#"{"type":"CONNACK","session_present":0,"reason_code":5}"#,
    ),
    (
        "30060003612f62ff",
        r#"{"type":"PUBLISH","dup":0,"qos":0,"retain":0,"topic":"a/b","packet_id":null,"payload":"ff"}"#,
    ),
    (
        "3d070003612f62000a",
        r#"{"type":"PUBLISH","dup":1,"qos":2,"retain":1,"topic":"a/b","packet_id":10,"payload":""}"#,
    ),
    ("40020001", r#"{"type":"PUBACK","packet_id":1}"#),
    ("50020001", r#"{"type":"PUBREC","packet_id":1}"#),
    ("6202ffff", r#"{"type":"PUBREL","packet_id":65535}"#),
    ("70020001", r#"{"type":"PUBCOMP","packet_id":1}"#),
    (
        "820a0001000123010001 6102",
        r##"{"type":"SUBSCRIBE","packet_id":1,"filters":[{"filter":"#","qos":1},{"filter":"a","qos":2}]}"##,
    ),
    (
        "900400010280",
        r#"{"type":"SUBACK","packet_id":1,"reason_codes":[2,128]}"#,
    ),
    (
        "a2050001000161",
        r#"{"type":"UNSUBSCRIBE","packet_id":1,"filters":["a"]}"#,
    ),
    ("b0020001", r#"{"type":"UNSUBACK","packet_id":1}"#),
    ("e000", r#"{"type":"DISCONNECT"}"#),
];

const V5: [(&str, &str); 12] = [
    (
        "103f00044d5154540504003c1a1100000e101500016d1600020aff190021000a260001610001\
         6200036465760e0101030004746578741800000005000174000101",
        r#"{"type":"CONNECT","protocol_name":"MQTT","protocol_level":5,"clean_start":0,"keep_alive":60,"client_id":"dev","will":{"qos":0,"retain":0,"topic":"t","payload":"01","properties":{"payload_format_indicator":1,"content_type":"text","will_delay_interval":5}},"username":null,"password":null,"properties":{"session_expiry_interval":3600,"authentication_method":"m","authentication_data":"0aff","request_response_information":0,"receive_maximum":10,"user_property":[["a","b"]]}}"#,
    ),
    (
        "200a01000722138824012a00",
        r#"{"type":"CONNACK","session_present":1,"reason_code":0,"properties":{"topic_alias_maximum":5000,"maximum_qos":1,"shared_subscription_available":0}}"#,
    ),
    (
        "300c000007230001 0b02 0b05 7879",
        r#"{"type":"PUBLISH","dup":0,"qos":0,"retain":0,"topic":"","packet_id":null,"payload":"7879","properties":{"subscription_identifier":[2,5],"topic_alias":1}}"#,
    ),
    (
        "40020001",
        r#"{"type":"PUBACK","packet_id":1,"reason_code":0,"properties":{}}"#,
    ),
    (
        "500f000187 0b 1f00026e6f 260000000178",
        r#"{"type":"PUBREC","packet_id":1,"reason_code":135,"properties":{"reason_string":"no","user_property":[["","x"]]}}"#,
    ),
    (
        "820a0001 030b8001 0001612d",
        r#"{"type":"SUBSCRIBE","packet_id":1,"filters":[{"filter":"a","qos":1,"no_local":1,"retain_as_published":1,"retain_handling":2}],"properties":{"subscription_identifier":128}}"#,
    ),
    (
        "900400010097",
        r#"{"type":"SUBACK","packet_id":1,"reason_codes":[151],"properties":{}}"#,
    ),
    (
        "a206000100000161",
        r#"{"type":"UNSUBSCRIBE","packet_id":1,"filters":["a"],"properties":{}}"#,
    ),
    (
        "b00500010000 11",
        r#"{"type":"UNSUBACK","packet_id":1,"reason_codes":[0,17],"properties":{}}"#,
    ),
    ("d000", r#"{"type":"PINGRESP"}"#),
    (
        "e00700051100000000",
        r#"{"type":"DISCONNECT","reason_code":0,"properties":{"session_expiry_interval":0}}"#,
    ),
    (
        "f00a1808 1500016d 16000100",
        r#"{"type":"AUTH","reason_code":24,"properties":{"authentication_method":"m","authentication_data":"00"}}"#,
    ),
];

#[test]
fn each_packet_has_its_shape_both_ways() {
    for (version, table) in [(Version::V311, &V311[..]), (Version::V5, &V5[..])] {
        for (bytes, json) in table {
            let expected = format!("{{\"ok\":[{json}]}}\n");
            assert_eq!(
                decoded(version, Sender::Either, bytes),
                (expected.clone(), true)
            );
            let bytes = bytes.replace(' ', "") + "\n";
            assert_eq!(encoded(version, json), (bytes.clone(), String::new(), true));
            // What decode prints is taken whole.
            assert_eq!(encoded(version, &expected), (bytes, String::new(), true));
        }
    }
}

#[test]
fn optional_keys_may_be_missing() {
    let (output, errors, _) = encoded(Version::V5, r#"{"type":"PUBLISH","topic":"a"}"#);
    assert_eq!((output.as_str(), errors.as_str()), ("300400016100\n", ""));
    let (output, errors, _) = encoded(Version::V311, r#"{"type":"CONNECT","client_id":""}"#);
    assert_eq!(
        (output.as_str(), errors.as_str()),
        (
            "100c00044d5154540402 00000000\n".replace(' ', "").as_str(),
            ""
        )
    );
    let (output, _, _) = encoded(
        Version::V5,
        r#"{"type":"SUBSCRIBE","packet_id":1,"filters":[{"filter":"a"}],"properties":{"subscription_identifier":[7]}}"#,
    );
    assert_eq!(output, "82090001020b0700016100\n");
}

#[test]
fn a_bad_line_is_named_and_skipped() {
    let input = [
        r#"{"type":"PINGREQ","x":1}"#,
        r#"{"type":"PINGREQ"}"#,
        "",
        r#"{"type":"PUBACK","packet_id":1,"reason_code":0}"#,
        "nonsense",
        r#"{"type":"PUBLISH","topic":"a/+"}"#,
        r#"{"type":"AUTH"}"#,
        r#"{"type":"PUBLISH","topic":"a","dup":2}"#,
        r#"{"type":"PUBLISH","topic":"a","payload":"0"}"#,
        r#"{"type":"PUBACK","packet_id":1,"packet_id":2}"#,
        r#"{"type":"PUBACK","packet_id":1,"properties":{}}"#,
        r#"{"type":"NOTHING"}"#,
        r#"{"type":"CONNECT","client_id":"","protocol_level":5}"#,
        r#"{"type":"SUBACK","packet_id":1}"#,
        r#"[]"#,
        "\u{fffd}",
        r#"{"type":"PINGRESP"}"#,
    ];
    let (output, errors, is_good) = encoded(Version::V311, &input.join("\n"));
    assert!(!is_good);
    assert_eq!(output, "c000\nd000\n");
    let named: Vec<&str> = errors
        .lines()
        .map(|line| line.split_once(':').unwrap().0)
        .collect();
    let expected: Vec<String> = [1, 4]
        .into_iter()
        .chain(5..=16)
        .map(|number| format!("line {number}"))
        .collect();
    assert_eq!(named, expected);
}

#[test]
fn the_version_decides_the_keys() {
    let json = r#"{"type":"SUBSCRIBE","packet_id":1,"filters":[{"filter":"a","no_local":0}]}"#;
    assert!(!encoded(Version::V311, json).2);
    assert!(encoded(Version::V5, json).2);
    let (_, errors, _) = encoded(
        Version::V5,
        r#"{"type":"PUBLISH","topic":"a","properties":{"receive_maximum":1}}"#,
    );
    assert_eq!(
        errors,
        "line 1: PUBLISH may not carry the property receive maximum\n"
    );
    let (_, errors, _) = encoded(
        Version::V5,
        r#"{"type":"PUBLISH","topic":"a","properties":{"nothing":1}}"#,
    );
    assert!(
        errors.starts_with("line 1: unknown field `nothing`"),
        "{errors}"
    );
}

#[test]
fn types_are_read_in_lower_case_too() {
    for (bytes, json) in [
        ("c000", r#"{"type":"pingreq"}"#),
        ("40020001", r#"{"type":"puback","packet_id":1}"#),
        (
            "a2050001000161",
            r#"{"type":"unsubscribe","packet_id":1,"filters":["a"]}"#,
        ),
    ] {
        let (output, errors, is_good) = encoded(Version::V311, json);
        assert_eq!((output.trim(), &*errors, is_good), (bytes, "", true));
    }
}
