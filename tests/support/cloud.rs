//! An emulated AWS IoT on a runtime of its own, and the program as a fleet before it.

use std::fmt::Display;
use std::path::Path;

use paquebot_emulator::aws::{Aws, AwsBuilder};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::certs::write_file;
use super::program::Program;

/// The emulator, its certificates' folder, and what it runs on: tests of the program need no runtime themselves.
pub(crate) struct Cloud {
    pub(crate) aws: Aws,
    runtime: Runtime,
    folder: TempDir,
}

impl Cloud {
    pub(crate) fn start() -> Self {
        Self::start_with(|builder| builder)
    }

    /// With what a test wants otherwise.
    pub(crate) fn start_with(adjust: impl FnOnce(AwsBuilder) -> AwsBuilder) -> Self {
        let folder = done("a folder is made", TempDir::new());
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = done("the emulator's runtime starts", runtime);
        let builder = adjust(Aws::builder().directory(folder.path()));
        let aws = done("the emulator starts", runtime.block_on(builder.start()));
        Self {
            aws,
            runtime,
            folder,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The platform `cloud` of a fleet file, whose things all have the certificate `fleet`.
    pub(crate) fn by_certificate(&self) -> String {
        let made = self.aws.client_certificate("fleet");
        let Some(files) = done("a certificate is made", made).paths else {
            panic!("the emulator has a directory, and keeps no certificates in it");
        };
        let port = self.aws.mqtt_address().port();
        let (certificate, key) = (files.certificate, files.private_key);
        self.platform(
            port,
            &format!(r#"auth = {{ type = "x509", cert = {certificate:?}, key = {key:?} }}"#),
        )
    }

    /// The platform `cloud` of a fleet file at a port, with more lines.
    pub(crate) fn platform(&self, port: u16, lines: &str) -> String {
        let authority = self.aws.authority_path();
        let authority = authority.unwrap_or_else(|| panic!("the emulator keeps no authority"));
        format!(
            r#"
[platforms.cloud]
kind = "aws"
endpoint = "localhost:{port}"
ca_file = {authority:?}
reconnect = {{ base = "200ms", max = "2s" }}
{lines}
"#
        )
    }

    /// Runs a fleet file of this text, with variables of the environment.
    pub(crate) fn run(&self, text: &str, variables: &[(&str, &str)]) -> Program {
        let file = self.folder().join("fleet.toml");
        write_file(&file, text, 0o644);
        let file = file.to_string_lossy();
        Program::start_with(variables, ["run", "--json", "--no-admin", "-f", &*file])
    }

    pub(crate) fn stop(self) {
        self.runtime.block_on(self.aws.stop());
    }
}

fn done<T, E: Display>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("it is not so that {what}: {error}"))
}
