//! Finds libmosquitto, so that it takes part when it is there, and notes the compiler for the report.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_LIBDIR");
    println!("cargo::rustc-check-cfg=cfg(libmosquitto)");
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = output(&compiler, &["--version"]).unwrap_or_else(|| "rustc, unknown".to_owned());
    println!("cargo::rustc-env=PEERS_RUSTC={version}");
    match output("pkg-config", &["--modversion", "libmosquitto"]) {
        Some(version) => {
            println!("cargo::rustc-cfg=libmosquitto");
            println!("cargo::rustc-link-lib=mosquitto");
            println!("cargo::rustc-env=PEERS_LIBMOSQUITTO={version}");
        }
        None if std::env::var_os("CARGO_FEATURE_C_CLIENTS").is_some() => {
            println!(
                "cargo::error=pkg-config finds no libmosquitto; install its development package (Debian: libmosquitto-dev)"
            );
        }
        None => {}
    }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
