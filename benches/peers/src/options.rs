//! The command line.

use std::path::PathBuf;

use crate::Failure;
use crate::client::Client;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) is_quick: bool,
    /// Sections; empty: all.
    pub(crate) only: Vec<String>,
    /// Clients; empty: all.
    pub(crate) clients: Vec<Client>,
    pub(crate) out: PathBuf,
    /// A page whose tables are replaced.
    pub(crate) fill: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Measure(Options),
}

impl Command {
    /// Reads the arguments after the program's name.
    pub(crate) fn parse(
        mut arguments: impl Iterator<Item = String>,
        sections: &[&str],
    ) -> Result<Self, Failure> {
        let mut options = Options {
            is_quick: false,
            only: Vec::new(),
            clients: Vec::new(),
            out: default_out(),
            fill: None,
        };
        while let Some(argument) = arguments.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (&*argument, None),
            };
            let mut value = || {
                let value = inline.clone().or_else(|| arguments.next());
                value.ok_or_else(|| format!("{name} needs a value; see --help"))
            };
            match name {
                "-h" | "--help" => return Ok(Self::Help),
                "--quick" => options.is_quick = true,
                "--only" => {
                    for id in value()?.split(',') {
                        if !sections.contains(&id) {
                            let known = sections.join(", ");
                            return Err(format!("no row is called {id}; there are {known}").into());
                        }
                        options.only.push(id.to_owned());
                    }
                }
                "--clients" => {
                    for id in value()?.split(',') {
                        options.clients.push(client(id)?);
                    }
                }
                "--fill" => options.fill = Some(value()?.into()),
                "--out" => options.out = value()?.into(),
                _ => return Err(format!("{argument} means nothing here; see --help").into()),
            }
        }
        Ok(Self::Measure(options))
    }
}

/// The text of `--help`.
pub(crate) fn help(sections: &[(&str, &str)]) -> String {
    let mut text = String::from(
        "Measures paquebot beside other MQTT clients on this machine and writes peers.md, peers.json and peers.svg.\n\n\
         Usage: cargo run --release --manifest-path benches/peers/Cargo.toml -- [OPTIONS]\n\n\
         \x20 --quick            less of everything, in under three minutes\n\
         \x20 --only ROW,…       these rows only\n\
         \x20 --clients CLIENT,… these clients only\n\
         \x20 --out DIR          where the files go; default benches/peers/target/report\n\
         \x20 --fill PAGE        put the tables into this page too, such as docs/performance.md\n\
         \x20 --help             this text\n\nRows:\n",
    );
    for (id, title) in sections {
        text.push_str(&format!("  {id:<18} {title}\n"));
    }
    text.push_str("\nClients:\n");
    for client in Client::ALL {
        let absent = if client.is_built() {
            ""
        } else {
            " (not built: see Cargo.toml, feature c-clients)"
        };
        text.push_str(&format!(
            "  {:<18} {}{absent}\n",
            client.id(),
            client.title()
        ));
    }
    text
}

fn client(id: &str) -> Result<Client, Failure> {
    let client = Client::ALL.into_iter().find(|client| client.id() == id);
    let client = client.ok_or_else(|| format!("no client is called {id}; see --help"))?;
    if client.is_built() {
        Ok(client)
    } else {
        Err(format!("{id} was not built; see Cargo.toml, feature c-clients").into())
    }
}

fn default_out() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "target", "report"]
        .iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, Failure> {
        let arguments = line.split_whitespace().map(str::to_owned);
        Command::parse(arguments, &["codec", "tls"])
    }

    #[test]
    fn an_option_takes_its_value_after_a_space_or_an_equals_sign() {
        for line in [
            "--quick --only codec,tls --clients ntex --out o",
            "--quick --only=codec,tls --clients=ntex --out=o",
        ] {
            let Ok(Command::Measure(options)) = parse(line) else {
                panic!("{line} is not understood");
            };
            assert!(options.is_quick);
            assert_eq!(options.only, ["codec", "tls"]);
            assert_eq!(options.clients, [Client::Ntex]);
            assert_eq!(options.out, PathBuf::from("o"));
        }
    }

    #[test]
    fn what_is_not_known_is_an_error_that_names_it() {
        for (line, name) in [
            ("--only tsl", "tsl"),
            ("--clients x", "x"),
            ("--fast", "--fast"),
        ] {
            let error = parse(line).map_err(|error| error.to_string());
            assert!(error.is_err_and(|text| text.contains(name)), "{line}");
        }
    }
}
