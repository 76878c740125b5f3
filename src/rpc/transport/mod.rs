//! The gRPC port: TCP connections, HTTP/2 on them, and the bytes of requests as they arrive.
//!
//! This stands on h2 itself where tonic's server stands on hyper, for two reasons. hyper gives a request's flow control
//! window back as soon as its body is read, so that a reader that wants its client to wait can only stop reading; h2
//! then counts the small frames that nobody takes, and ends the connection (GOAWAY, too_many_data_frames). Here frames
//! are always taken, and the window is given back when a message is: a client that sends too fast waits. And h2 alone
//! lets a server limit how long a connection may be silent.

mod accept;
mod budget;
mod connection;
mod connections;
mod descriptors;
mod exchange;
mod intake;
mod socket;

pub use self::descriptors::{connection_limit, raise_descriptor_limit};
pub(crate) use self::{
    accept::{Ends, Transport, listen},
    budget::{HeldBytes, RequestBytes},
    connections::Connections,
    intake::{Arrival, Intake, IntakeError},
};
