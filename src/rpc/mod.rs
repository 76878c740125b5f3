//! The gRPC server: validation, deadlines, streams and errors around the models of a [`Registry`].
//!
//! Handlers have no state of their own. Each unit of work becomes a [`sequence::Sequence`] on the engine, which is cancelled
//! when it is dropped. So whatever ends a call (its answer, its deadline, its client, the server's drain) also ends its
//! work.
//!
//! [`Registry`]: crate::registry::Registry

mod access;
mod admin;
mod call;
mod call_layer;
mod call_trace;
mod category_probabilities;
mod classifier;
mod classify;
mod classify_one;
mod clock;
mod deadline;
mod decision;
mod element_counts;
mod encode;
mod entrance;
mod envelopes;
mod error;
mod evidence;
mod gen_ai;
mod generate;
mod generation;
mod guard_end;
mod guard_stream;
mod guarded_generation;
mod guarding;
mod judge;
mod judged;
mod judgements;
mod label;
mod limits;
mod local;
mod local_generation;
mod method;
mod models;
mod origin;
mod pieces;
mod precision;
mod provenance;
mod quality;
mod received_body;
mod record;
mod remote_accounts;
mod remote_generation;
mod remote_judge;
mod renderings;
mod request_body;
mod score;
mod sequence;
mod server;
mod server_stats;
mod shadow_log;
mod status;
mod stream;
mod text_work;
mod token_quota;
mod translated;
mod transport;
mod usage;
mod validate;
mod verdict_counts;
mod violations;
mod windows;
mod withheld;
mod worst;

pub(crate) use call::RefusedRequest;
pub(crate) use decision::{DecidedAbout, decide};
pub use entrance::Access;
pub(crate) use envelopes::{Arriving, Envelope, Envelopes};
pub use error::{ServiceError, TextOrigin, TranslationFlaw};
pub(crate) use label::label_name;
pub use limits::{DefaultDeadlines, Limits, ServerOptions, TimeLimits};
pub(crate) use local::{CallsMade, LocalCaller};
pub(crate) use origin::{Door, REQUEST_ID, http_request_id};
pub(crate) use received_body::ReceivedBody;
pub use server::{HttpListener, Listeners, Security, ServeError, serve, serve_on};
pub use status::{DOMAIN, Reason};
pub use transport::Incoming;
pub(crate) use transport::{HeldBytes, MadeMessages, raise_descriptor_limit};
pub use validate::RequestChecks;
