//! Who may call, and which call: checked when the headers of a call have arrived, before anything of its body is read.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{
    HeaderMap, Request,
    header::{AUTHORIZATION, HeaderValue},
};

use super::{
    clock::now,
    error::ServiceError,
    method::Method,
    transport::{Beyond, CallPlace, Intake},
};
use crate::{
    auth::{Authenticator, Quotas, Rejection, Scope, SharedPrincipal, count_refusal},
    engine::Tenant,
    tls::PeerCertificate,
};

/// The header by which callers name their tenant where there is no authentication; see docs/scheduling.md.
pub(crate) const TENANT: &str = "x-babelward-tenant";

/// The method of health probes. It is answered without a credential, because orchestrators have none; it only tells whether
/// a service serves.
pub(crate) const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// When to try again if too much is open: about as long as it takes until something ends.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// Who may call.
#[derive(Clone, Default)]
pub enum Access {
    /// Everybody who reaches the server. Callers say themselves which tenant they are.
    #[default]
    Open,
    /// Callers with a credential, which says which tenant they are and what they may do.
    Checked(Arc<Authenticator>),
}

/// Where AdminService is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdminCalls {
    /// On this listener.
    Here,
    /// On another listener of this server.
    Elsewhere,
}

/// The checks of one listener.
#[derive(Clone)]
pub(crate) struct Entrance {
    pub(crate) access: Access,
    pub(crate) admin_calls: AdminCalls,
    pub(crate) quotas: Quotas,
}

/// A caller who may make its call.
pub(crate) struct Admitted {
    pub(crate) tenant: Tenant,
    /// The credential that proves it, where there is authentication.
    pub(crate) credential: Option<Credential>,
}

/// The credential of an open call. What is asked for later on the same call needs it to be valid still.
#[derive(Clone)]
pub(crate) struct Credential {
    authenticator: Arc<Authenticator>,
    authorization: Option<HeaderValue>,
    certificate: Option<Arc<PeerCertificate>>,
    method: Method,
    tenant: Tenant,
}

impl Credential {
    /// Checks it again, as for a new call.
    pub(crate) fn check(&self) -> Result<(), ServiceError> {
        self.check_scope(self.method.scopes())
    }

    /// Checks it again, and that it allows what needs any one of these scopes.
    pub(crate) fn check_scope(&self, needs: &'static [Scope]) -> Result<(), ServiceError> {
        let value = self.authorization.as_ref().map(HeaderValue::as_bytes);
        let found = self
            .authenticator
            .identify(value, self.certificate.as_deref(), SystemTime::now());
        let principal = found.map_err(refused)?;
        if principal.tenant != self.tenant {
            // The work would be somebody else's.
            return Err(refused(Rejection::Unknown));
        }
        has_scope(&principal, needs)
    }
}

impl Entrance {
    /// Whose a call of ours is, if its caller may make it.
    pub(crate) fn admit(&self, method: Method, call: &Request<Intake>) -> Result<Admitted, ServiceError> {
        let (tenant, credential) = match &self.access {
            Access::Open => (named_tenant(call.headers().get(TENANT)), None),
            Access::Checked(authenticator) => {
                let principal = identify(authenticator, call)?;
                has_scope(&principal, method.scopes())?;
                charge(&principal.tenant, call)?;
                let credential = Credential {
                    authenticator: Arc::clone(authenticator),
                    authorization: call.headers().get(AUTHORIZATION).cloned(),
                    certificate: call.extensions().get().cloned(),
                    method,
                    tenant: principal.tenant.clone(),
                };
                (principal.tenant.clone(), Some(credential))
            }
        };
        if method.is_admin() && self.admin_calls == AdminCalls::Elsewhere {
            return Err(ServiceError::AdminElsewhere);
        }
        if !method.counts_items() {
            let counted = self.quotas.take_request(&tenant, now());
            counted.map_err(ServiceError::quota)?;
        }
        Ok(Admitted { tenant, credential })
    }

    /// Whether everybody who reaches the server may call.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.access, Access::Open)
    }

    /// The tenant of a caller that has shown this; `None` where everybody may call. Whether it may make a call is not asked.
    ///
    /// # Errors
    /// Why nobody knows the caller.
    pub(crate) fn tenant(
        &self,
        headers: &HeaderMap,
        certificate: Option<&PeerCertificate>,
    ) -> Result<Option<Tenant>, Rejection> {
        match &self.access {
            Access::Open => Ok(None),
            Access::Checked(authenticator) => {
                let principal = found(authenticator, headers, certificate)?;
                Ok(Some(principal.tenant.clone()))
            }
        }
    }

    /// The tenant of a caller as the log names it: that of its credential or, where everybody may call, the one that it says.
    /// `None` if nobody knows the caller.
    pub(crate) fn tenant_for_log(
        &self,
        headers: &HeaderMap,
        certificate: Option<&PeerCertificate>,
    ) -> Option<Tenant> {
        let known = self.tenant(headers, certificate).ok()?;
        Some(known.unwrap_or_else(|| named_tenant(headers.get(TENANT))))
    }

    /// Whether the caller may make a call that is not of ours: a health check always; any other, such as one of
    /// reflection, with any credential, and as a request of its tenant.
    pub(crate) fn admit_foreign(&self, call: &Request<Intake>) -> Result<(), ServiceError> {
        match &self.access {
            Access::Checked(authenticator) if call.uri().path() != HEALTH_CHECK => {
                let principal = identify(authenticator, call)?;
                charge(&principal.tenant, call)?;
                let counted = self.quotas.take_request(&principal.tenant, now());
                counted.map_err(ServiceError::quota)
            }
            Access::Checked(_) | Access::Open => Ok(()),
        }
    }
}

/// Counts the call among what its tenant holds of the port.
fn charge(tenant: &Tenant, call: &Request<Intake>) -> Result<(), ServiceError> {
    let Some(place) = call.extensions().get::<CallPlace>() else {
        return Ok(());
    };
    place
        .charge_request(tenant, call.body())
        .map_err(|beyond| match beyond {
            Beyond::Calls => ServiceError::TooManyCalls { retry_after: RETRY },
            Beyond::Bytes => ServiceError::RequestMemory { retry_after: RETRY },
        })
}

fn has_scope(principal: &SharedPrincipal, needs: &'static [Scope]) -> Result<(), ServiceError> {
    if principal.scopes.has_any(needs) {
        return Ok(());
    }
    count_refusal("scope");
    Err(ServiceError::ScopeMissing {
        needs,
        has: principal.scopes,
    })
}

fn identify<B>(authenticator: &Authenticator, call: &Request<B>) -> Result<SharedPrincipal, ServiceError> {
    let certificate = call.extensions().get::<Arc<PeerCertificate>>();
    found(authenticator, call.headers(), certificate.map(Arc::as_ref)).map_err(refused)
}

fn found(
    authenticator: &Authenticator,
    headers: &HeaderMap,
    certificate: Option<&PeerCertificate>,
) -> Result<SharedPrincipal, Rejection> {
    let values = headers.get_all(AUTHORIZATION).iter();
    authenticator.identify(values.map(HeaderValue::as_bytes), certificate, SystemTime::now())
}

fn refused(rejection: Rejection) -> ServiceError {
    count_refusal(rejection.name());
    ServiceError::Unauthenticated(rejection)
}

/// The tenant that the header names. Without the header, or with an invalid name, the call is charged to the account that
/// all such calls share, so that nobody gets an account of its own with invalid names.
fn named_tenant(value: Option<&HeaderValue>) -> Tenant {
    value
        .and_then(|value| value.to_str().ok())
        .and_then(Tenant::named)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_named_or_share_one_account() {
        let named = |name: &str| named_tenant(Some(&HeaderValue::from_str(name).unwrap()));
        assert_eq!(Some(named("team-7")), Tenant::named("team-7"));
        for name in ["", "a b", "a/b", &"x".repeat(65)] {
            assert!(named(name).is_unnamed(), "{name:?}");
        }
        assert!(named_tenant(None).is_unnamed());
    }
}
