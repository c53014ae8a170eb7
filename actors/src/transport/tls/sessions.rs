//! TLS sessions that later connections of the same identity may resume.
//!
//! The store that comes with rustls keeps eight tickets of a server: enough for one client, not for a fleet that comes
//! back. There dozens of handshakes end in one turn of the event loop, each with a ticket or two, and dozens begin in
//! the next; with eight of them kept, most begin from nothing, which costs a verification of a signature or two more.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls_pki_types::ServerName;
use tokio_rustls::rustls::NamedGroup;
use tokio_rustls::rustls::client::{
    ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};

/// Servers that are remembered at the most; the first one is forgotten for another.
const SERVERS_MAX: usize = 32;

/// Sessions by server, the newest first: a ticket is used once, and those of long ago may have ended.
pub(super) struct Sessions {
    servers: Mutex<Vec<Server>>,
    tickets_max: usize,
}

struct Server {
    name: ServerName<'static>,
    key_exchange: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    /// Of TLS 1.3, the newest last.
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    /// Keeps up to `tickets_max` tickets of each server.
    pub(super) const fn new(tickets_max: usize) -> Self {
        Self {
            servers: Mutex::new(Vec::new()),
            tickets_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a server, if anything is.
    fn look<T>(&self, name: &ServerName<'_>, look: impl FnOnce(&mut Server) -> T) -> Option<T> {
        let mut servers = self.lock();
        let server = servers.iter_mut().find(|server| server.name == *name)?;
        Some(look(server))
    }

    fn note(&self, name: ServerName<'static>, note: impl FnOnce(&mut Server)) {
        let mut servers = self.lock();
        if let Some(server) = servers.iter_mut().find(|server| server.name == name) {
            return note(server);
        }
        if servers.len() >= SERVERS_MAX {
            servers.remove(0);
        }
        let mut server = Server {
            name,
            key_exchange: None,
            tls12: None,
            tickets: VecDeque::new(),
        };
        note(&mut server);
        servers.push(server);
    }
}

impl std::fmt::Debug for Sessions {
    /// Without the sessions, which have secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions")
            .field("tickets_max", &self.tickets_max)
            .finish_non_exhaustive()
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.note(server_name, |server| server.key_exchange = Some(group));
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.look(server_name, |server| server.key_exchange)?
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.note(server_name, |server| server.tls12 = Some(value));
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.look(server_name, |server| server.tls12.clone())?
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.look(server_name, |server| server.tls12 = None);
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.note(server_name, |server| {
            if server.tickets.len() >= self.tickets_max {
                server.tickets.pop_front();
            }
            server.tickets.push_back(value);
        });
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        self.look(server_name, |server| server.tickets.pop_back())?
    }
}
