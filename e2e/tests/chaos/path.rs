//! A way from one to another, which can be disturbed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use faults::tcp::{Fault, Proxy};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::ledger::{Ledger, MOST_IN_HAND};
use crate::port;

pub(crate) struct Path {
    pub(crate) name: String,
    /// Whether mails take it.
    pub(crate) is_of_mails: bool,
    proxy: Proxy,
    /// One disturbance at a time.
    turn: Mutex<()>,
}

impl Path {
    pub(crate) async fn to(name: impl Into<String>, target: SocketAddr) -> Path {
        Path::on(name, port::listener().await, target).await
    }

    pub(crate) async fn on(name: impl Into<String>, listener: TcpListener, target: SocketAddr) -> Path {
        let proxy = Proxy::on(listener, target).await;
        Path { name: name.into(), is_of_mails: false, proxy, turn: Mutex::default() }
    }

    pub(crate) fn of_mails(self) -> Path {
        Path { is_of_mails: true, ..self }
    }

    /// Where it begins.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.proxy.addr()
    }

    pub(crate) async fn disturbed(&self, fault: Fault, lasts: Duration, ledger: &Ledger) {
        let _turn = self.turn.lock().await;
        let (began, before) = (Instant::now(), self.proxy.connections());
        self.proxy.fault(fault).await;
        tokio::time::sleep(lasts).await;
        self.proxy.fault(Fault::None).await;
        // A connection that has lost bytes ends: no network delivers what comes after them.
        if matches!(fault, Fault::Swallow | Fault::Mute) {
            self.proxy.cut();
        }
        if self.is_of_mails {
            // Those that were open, and those that came.
            ledger.disturbed(began, MOST_IN_HAND + self.proxy.connections() - before);
        }
    }
}
