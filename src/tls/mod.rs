//! TLS of the server: its certificate, the authorities of its clients, and what a client's certificate says. All of it is
//! read from files, again whenever they change. And TLS towards engines on other machines, whose authorities are read once.

mod client;
mod peer;
mod server;
mod validity;

pub use self::{
    client::client_tls,
    peer::PeerCertificate,
    server::{ClientCertificates, MinVersion, ServerTls, TlsError, TlsFiles},
};
