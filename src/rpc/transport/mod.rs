//! The gRPC port: connections, HTTP/2 on them, and the bytes of requests as they arrive; and the connections of the HTTP
//! port, which speak HTTP/1.1.
//!
//! The gRPC port is built on h2 itself, where tonic's server is built on hyper, for two reasons. First, hyper returns a request's
//! flow control window as soon as its body is read, so a reader that wants its client to wait can only stop reading; h2
//! then counts the small frames that are not read, and ends the connection (GOAWAY, too_many_data_frames). Here frames are
//! always read, and the window is returned when a message is taken, so that a client which sends too fast waits. Second,
//! only h2 lets a server limit how long a connection may be silent.

mod accept;
mod budget;
mod connection;
mod connections;
mod descriptors;
mod exchange;
mod http1;
mod intake;
mod peer;
mod service;
mod socket;
mod source;
mod tenant_use;
mod turns;

pub use self::accept::Incoming;
pub(crate) use self::descriptors::{connection_limit, raise_descriptor_limit};
pub(crate) use self::{
    accept::{Shutdown, listen},
    budget::{HeldBytes, RequestBudget},
    connection::serve as serve_http2,
    connections::{CallKind, Connections},
    http1::{Arrived, HttpPort, serve as serve_http1},
    intake::{Arrival, Intake, IntakeError},
    peer::PeerAddress,
    service::Transport,
    source::{MadeMessages, Source},
    tenant_use::{Beyond, CallPlace, TenantUses},
};
