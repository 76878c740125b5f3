//! A connected client: its channel, unary calls, and their retries.

use std::{
    collections::BTreeSet,
    future::Future,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use tokio::{net::lookup_host, time::Instant};
use tonic::{
    Code, Response, Status,
    metadata::{AsciiMetadataValue, MetadataMap},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};

use super::{
    credentials::{BearerToken, ClientIdentity},
    error::{self, ClientError, RpcError, TlsProblem},
    retry::{Jitter, RetryPolicy, ServerHint},
};
use crate::{
    proto::{
        ClassifyRequest, ClassifyResponse, ListModelsRequest, Model, ScoreRequest, ScoreResponse,
        model_service_client::ModelServiceClient, safety_service_client::SafetyServiceClient,
        scoring_service_client::ScoringServiceClient,
    },
    status_code::code_name,
    trace_context::{TRACEPARENT, TRACESTATE, TraceContext},
};

/// A connection with an open call that has been idle for this long is pinged, so that a dead peer is detected.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Whether a key or token may be sent to another machine without encryption, where everybody on the way can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlaintextToken {
    /// It is not sent.
    #[default]
    Refused,
    /// It is sent: a proxy or mesh encrypts.
    Sent,
}

/// How to reach a server.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long one attempt of a unary call may take, which is sent to the server as its deadline. Without it there is no
    /// limit. Streams have no limit.
    pub call_timeout: Option<Duration>,
    /// Authorities, in PEM form, that may have issued the certificate of a server with TLS; those that the system trusts if
    /// absent.
    pub authorities: Option<Vec<u8>>,
    /// The certificate to show to a server with TLS that asks for one.
    pub identity: Option<ClientIdentity>,
    /// The API key or token to send with each call.
    pub token: Option<BearerToken>,
    /// Whether it may be sent to another machine without encryption.
    pub plaintext_token: PlaintextToken,
    /// The tenant that the server charges with the work.
    pub tenant: Option<AsciiMetadataValue>,
    /// The span that all calls are made for.
    pub trace: Option<TraceContext>,
    /// How calls that fail with UNAVAILABLE or RESOURCE_EXHAUSTED are retried.
    pub retry: RetryPolicy,
    /// Where the jitter of these retries comes from.
    pub jitter: Jitter,
}

impl ClientOptions {
    /// An endpoint with the times of these options, and a keep-alive that detects a dead peer.
    pub fn tuned(&self, endpoint: Endpoint) -> Endpoint {
        endpoint
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .tcp_nodelay(true)
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            call_timeout: None,
            authorities: None,
            identity: None,
            token: None,
            plaintext_token: PlaintextToken::default(),
            tenant: None,
            trace: None,
            retry: RetryPolicy::default(),
            jitter: Jitter::default(),
        }
    }
}

/// A connected client. Cheap to clone; clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    servers: Arc<Servers>,
    pub(super) options: ClientOptions,
}

/// A channel to each server, at least one, of which all serve the same models.
#[derive(Debug)]
struct Servers {
    channels: Vec<Channel>,
    /// Whether all of them speak TLS, so that the client's certificate is shown to each.
    all_speak_tls: bool,
    /// Counts the unary calls: each goes to the next server.
    turn: AtomicUsize,
}

impl Client {
    /// Connects to `address` (`http://host:port`, or `https://host:port` for TLS; the scheme may be left out), with the retries
    /// of the policy. Several addresses, with commas between them, are servers that serve the same, and `dns:///NAME:PORT` is one
    /// server for each address of that name, `dns+https:///NAME:PORT` with TLS and certificates for that name. Calls go to
    /// them in turn, and to the next one after a failure. One that can be reached is enough; the others are tried again with
    /// later calls.
    ///
    /// # Errors
    /// [`ClientError::BadAddress`], [`ClientError::PlaintextToken`] and [`ClientError::Tls`] at once,
    /// [`ClientError::Unreachable`] after the last attempt.
    pub async fn connect(address: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let mut failed = 0;
        loop {
            let failure = match connect_all(address, &options).await {
                Ok(servers) => {
                    return Ok(Self {
                        servers: Arc::new(servers),
                        options,
                    });
                }
                Err(failure) => failure,
            };
            failed += 1;
            let again = matches!(failure, ClientError::Unreachable { .. });
            match options
                .retry
                .delay(failed, ServerHint::None, options.jitter.next())
            {
                Some(delay) if again => tokio::time::sleep(delay).await,
                _ => return Err(failure),
            }
        }
    }

    /// A client of servers to which there are channels already, at least one. They serve the same.
    pub fn over(channels: Vec<Channel>, options: ClientOptions) -> Self {
        let servers = Servers {
            channels,
            all_speak_tls: false,
            turn: AtomicUsize::new(0),
        };
        Self {
            servers: Arc::new(servers),
            options,
        }
    }

    /// How many servers there are.
    pub(super) fn servers(&self) -> usize {
        self.servers.channels.len()
    }

    /// The channel to the server with this number, which is taken modulo the number of servers.
    pub(super) fn server(&self, number: usize) -> Channel {
        self.servers.channels[number % self.servers()].clone()
    }

    /// Whether a key or token is sent, or a certificate shown, to every server.
    pub fn has_credential(&self) -> bool {
        self.options.token.is_some() || (self.options.identity.is_some() && self.servers.all_speak_tls)
    }

    /// All models of the server.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn list_models(&self) -> Result<Vec<Model>, ClientError> {
        self.list_models_and_version().await.map(|(models, _)| models)
    }

    /// All models of the server, and its version; empty if it does not state it.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn list_models_and_version(&self) -> Result<(Vec<Model>, String), ClientError> {
        let mut models = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListModelsRequest {
                page_token,
                ..ListModelsRequest::default()
            };
            let page = self
                .unary(request, async |channel, request| {
                    ModelServiceClient::new(channel).list_models(request).await
                })
                .await?;
            models.extend(page.models);
            if page.next_page_token.is_empty() {
                return Ok((models, page.server_version));
            }
            page_token = page.next_page_token;
        }
    }

    /// Judges the last message of a conversation.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn classify(&self, request: ClassifyRequest) -> Result<ClassifyResponse, ClientError> {
        self.unary(request, async |channel, request| {
            SafetyServiceClient::new(channel).classify(request).await
        })
        .await
    }

    /// Answers one prompt and judges the answer. It is safe to retry, with or without a seed, because the server keeps nothing.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn score(&self, request: ScoreRequest) -> Result<ScoreResponse, ClientError> {
        self.unary(request, async |channel, request| {
            ScoringServiceClient::new(channel).score(request).await
        })
        .await
    }

    /// The request of a call, with the headers that all calls have.
    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(token) = &self.options.token {
            request.metadata_mut().insert("authorization", token.header());
        }
        if let Some(tenant) = &self.options.tenant {
            request
                .metadata_mut()
                .insert("x-babelward-tenant", tenant.clone());
        }
        if let Some(trace) = &self.options.trace {
            let headers = [
                (TRACEPARENT, Some(trace.traceparent())),
                (TRACESTATE, trace.tracestate()),
            ];
            for (name, value) in headers {
                if let Some(Ok(value)) = value.map(AsciiMetadataValue::try_from) {
                    request.metadata_mut().insert(name, value);
                }
            }
        }
        request
    }

    pub(super) async fn unary<Q, R>(
        &self,
        request: Q,
        call: impl AsyncFn(Channel, tonic::Request<Q>) -> Result<Response<R>, Status>,
    ) -> Result<R, ClientError>
    where
        Q: Clone,
    {
        let first = self.servers.turn.fetch_add(1, Ordering::Relaxed);
        let mut failed = 0;
        let mut going_away = None;
        loop {
            let mut request = self.request(request.clone());
            let sent = Instant::now();
            if let Some(timeout) = self.options.call_timeout {
                request.set_timeout(timeout);
            }
            let attempt = call(self.server(first + failed as usize), request);
            let status = match within(self.options.call_timeout, attempt).await {
                Ok(response) => {
                    let ms = sent.elapsed().as_secs_f64() * 1e3;
                    tracing::debug!(id = call_id(response.metadata()), ms, "a call was answered");
                    return Ok(response.into_inner());
                }
                Err(status) => status,
            };
            failed += 1;
            let mut error = RpcError::from_status(&status);
            // tonic's timers, on either side, report a call whose deadline has passed as CANCELLED.
            let late = self
                .options
                .call_timeout
                .is_some_and(|timeout| sent.elapsed() >= timeout);
            if error.code == Code::Cancelled && late {
                error = RpcError::local(
                    Code::DeadlineExceeded,
                    "DEADLINE",
                    "no answer within the time limit",
                );
            }
            let delay = self
                .options
                .retry
                .delay(failed, error.hint, self.options.jitter.next());
            let delay = delay.filter(|_| error.is_retryable());
            tracing::debug!(
                id = call_id(status.metadata()),
                code = code_name(error.code),
                reason = error.reason.as_deref(),
                attempt = failed,
                again_in_ms = delay.map(|delay| delay.as_secs_f64() * 1e3),
                "a call failed"
            );
            match delay {
                Some(delay) => {
                    if error.is_server_draining() {
                        going_away = Some(error);
                    }
                    tokio::time::sleep(delay).await;
                }
                // The server is gone after it said that it was draining, which explains more than the system's error.
                None if error.is_connection_lost() => return Err(going_away.unwrap_or(error).into()),
                None => return Err(error.into()),
            }
        }
    }
}

/// An attempt of a call, with its time. tonic's own timer begins once there is a connection.
async fn within<T>(
    limit: Option<Duration>,
    attempt: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let Some(limit) = limit else { return attempt.await };
    let ended = tokio::time::timeout(limit, attempt).await;
    ended.unwrap_or_else(|_| Err(Status::cancelled("the time limit of the client is over")))
}

/// The id of the call in the server's log.
fn call_id(metadata: &MetadataMap) -> Option<&str> {
    metadata.get("x-request-id").and_then(|id| id.to_str().ok())
}

/// The servers that an address stands for, as [`Client::connect`] reads it.
///
/// # Errors
/// [`ClientError::Unreachable`] for a name that has no address.
pub async fn servers_of(addresses: &str) -> Result<Vec<String>, ClientError> {
    let places = places(addresses).await?;
    Ok(places.into_iter().map(|place| place.server).collect())
}

async fn places(addresses: &str) -> Result<Vec<Place>, ClientError> {
    let mut places = Vec::new();
    for address in addresses.split(',').map(str::trim) {
        places.extend(resolved(address).await?);
    }
    Ok(places)
}

/// Connects to all servers of a list. Those that cannot be reached connect later, with their first call. None is connected to
/// where one of them must not get the key or token.
async fn connect_all(addresses: &str, options: &ClientOptions) -> Result<Servers, ClientError> {
    let mut endpoints = Vec::new();
    for Place { server, name } in places(addresses).await? {
        let endpoint = endpoint(&server, name, options)?;
        let may_send = options.plaintext_token == PlaintextToken::Sent || is_private(endpoint.uri());
        if options.token.is_some() && !may_send {
            return Err(ClientError::PlaintextToken { address: server });
        }
        endpoints.push((server, options.tuned(endpoint)));
    }
    let connected = join_all(endpoints.iter().map(|(_, endpoint)| endpoint.connect())).await;
    let reached = connected.iter().any(Result::is_ok);
    let mut channels = Vec::new();
    for ((server, endpoint), result) in endpoints.iter().zip(connected) {
        channels.push(match result {
            Ok(channel) => channel,
            Err(error) => match ClientError::not_connected(server, &error) {
                ClientError::Unreachable { .. } if reached => endpoint.connect_lazy(),
                failure => return Err(failure),
            },
        });
    }
    Ok(Servers {
        channels,
        all_speak_tls: endpoints.iter().all(|(_, endpoint)| speaks_tls(endpoint.uri())),
        turn: AtomicUsize::new(0),
    })
}

/// A server to connect to.
struct Place {
    /// Its address.
    server: String,
    /// The name that its certificate must have; the address's own if absent.
    name: Option<String>,
}

/// The servers that an address stands for: itself or, for `dns:///NAME:PORT` and `dns+https:///NAME:PORT`, one for each address
/// that the name has now.
async fn resolved(address: &str) -> Result<Vec<Place>, ClientError> {
    let (name, scheme) = match (
        address.strip_prefix("dns:///"),
        address.strip_prefix("dns+https:///"),
    ) {
        (Some(name), _) => (name, "http"),
        (_, Some(name)) => (name, "https"),
        (None, None) => {
            let server = address.to_owned();
            return Ok(vec![Place { server, name: None }]);
        }
    };
    let unreachable = |reason: String| ClientError::Unreachable {
        address: address.to_owned(),
        reason,
    };
    let found = lookup_host(name)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let servers: BTreeSet<_> = found.map(|server| format!("{scheme}://{server}")).collect();
    if servers.is_empty() {
        return Err(unreachable("the name has no address".to_owned()));
    }
    let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
    let name = (scheme == "https").then(|| host.trim_matches(['[', ']']).to_owned());
    let places = servers.into_iter().map(|server| Place {
        server,
        name: name.clone(),
    });
    Ok(places.collect())
}

/// Whether nobody on the way to this address can read what is sent: with TLS, or within this machine.
pub(super) fn is_private(address: &Uri) -> bool {
    let host = address.host().unwrap_or_default();
    let ip = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    let is_here = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    is_here || speaks_tls(address)
}

fn speaks_tls(address: &Uri) -> bool {
    address.scheme_str() == Some("https")
}

fn endpoint(address: &str, name: Option<String>, options: &ClientOptions) -> Result<Endpoint, ClientError> {
    let bad = |reason: String| ClientError::BadAddress {
        address: address.to_owned(),
        reason,
    };
    let with_scheme = match address.split_once("://") {
        Some(("http" | "https", _)) => address.to_owned(),
        Some((scheme, _)) => {
            return Err(bad(format!(
                "the scheme must be http, https, dns or dns+https, not {scheme}"
            )));
        }
        None => format!("http://{address}"),
    };
    let is_tls = with_scheme.starts_with("https:");
    let endpoint = Endpoint::from_shared(with_scheme).map_err(|error| bad(error.to_string()))?;
    if !is_tls {
        return Ok(endpoint);
    }
    let tls = ClientTlsConfig::new();
    let tls = match &options.authorities {
        Some(authorities) => tls.ca_certificate(Certificate::from_pem(authorities)),
        None => tls.with_native_roots(),
    };
    let tls = match &options.identity {
        Some(identity) => tls.identity(Identity::from_pem(&identity.certificates, identity.key.expose())),
        None => tls,
    };
    let tls = match name {
        Some(name) => tls.domain_name(name),
        None => tls,
    };
    endpoint.tls_config(tls).map_err(|error| ClientError::Tls {
        address: address.to_owned(),
        problem: TlsProblem::NotSetUp(error::innermost(&error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn only_tls_and_this_machine_itself_are_private() {
        for (address, private) in [
            ("http://127.0.0.1:1", true),
            ("http://127.9.9.9:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("https://guard.example:1", true),
            ("https://192.0.2.1", true),
            ("http://guard.example:1", false),
            ("http://localhost.example:1", false),
            ("http://192.0.2.1:1", false),
            ("http://0.0.0.0:1", false),
            ("http://[::]:1", false),
            ("http://[2001:db8::1]:1", false),
            ("http://[::ffff:127.0.0.1]:1", false),
        ] {
            assert_eq!(is_private(&address.parse().unwrap()), private, "{address}");
        }
    }

    /// The addresses are of documentation (RFC 5737): nobody has them, and no connection is tried.
    #[tokio::test]
    async fn a_token_is_sent_to_nobody_when_one_server_would_get_it_unencrypted() {
        let token = BearerToken::new(&Secret::new("bw_x".to_owned())).unwrap();
        let options = ClientOptions {
            token: Some(token),
            ..ClientOptions::default()
        };
        for address in [
            "http://192.0.2.1:1",
            "192.0.2.1:1",
            "dns:///192.0.2.1:1",
            "https://192.0.2.2:1,http://192.0.2.1:1",
            "http://127.0.0.1:1,192.0.2.1:1",
        ] {
            let refused = Client::connect(address, options.clone())
                .await
                .map(drop)
                .unwrap_err();
            let named =
                matches!(&refused, ClientError::PlaintextToken { address } if address.contains("192.0.2.1"));
            assert!(named, "{address}: {refused}");
            let text = refused.to_string();
            assert!(
                text.contains("https://") && text.contains("--insecure-plaintext-token"),
                "{text}"
            );
        }
    }
}
