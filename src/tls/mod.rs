//! TLS of the server: its certificate, the authorities of its clients, and what a client's certificate says. All of it is
//! read from files, again whenever they change.

mod peer;
mod server;
mod validity;

pub use self::{
    peer::PeerCertificate,
    server::{ClientCertificates, MinVersion, ServerTls, TlsError, TlsFiles},
};
