//! From when to when a certificate is valid.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

/// Longest time before a certificate's end at which it is told that it ends soon.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// The part of a certificate's time that is left at most when it is told that it ends soon, where that is less than [`SOON`]:
/// certificates that are valid for a day are replaced within hours.
const SOON_PART: u32 = 5;

/// From when to when a certificate is valid, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// How close a certificate's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Far,
    Soon,
    Past,
}

impl Validity {
    /// What the certificate says. `None` if it is not an X.509 certificate.
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate.as_ref()).ok()?;
        let validity = parsed.validity();
        Some(Self {
            not_before: system_time(validity.not_before)?,
            not_after: system_time(validity.not_after)?,
        })
    }

    /// How close its end is.
    pub(super) fn end(&self, now: SystemTime) -> End {
        let Ok(left) = self.not_after.duration_since(now) else {
            return End::Past;
        };
        let whole = self.not_after.duration_since(self.not_before).unwrap_or_default();
        if left < SOON.min(whole / SOON_PART) {
            End::Soon
        } else {
            End::Far
        }
    }
}

fn system_time(time: ASN1Time) -> Option<SystemTime> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    match seconds >= 0 {
        true => SystemTime::UNIX_EPOCH.checked_add(distance),
        false => SystemTime::UNIX_EPOCH.checked_sub(distance),
    }
}

/// A time as errors and logs have it.
pub(super) fn shown(time: SystemTime) -> String {
    let seconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_secs().cast_signed(),
        Err(before) => -before.duration().as_secs().cast_signed(),
    };
    let shown = jiff::Timestamp::from_second(seconds).map(|time| time.to_string());
    shown.unwrap_or_else(|_| "a time that no calendar has".to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_certificate_says_from_when_to_when_it_is_valid() {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        // X.509 writes years before 1950 and from 2050 on in another form.
        for (from, to, seconds) in [
            ((2020, 1, 1), (2027, 1, 31), (1_577_836_800, 1_801_353_600)),
            ((1949, 12, 31), (2050, 1, 1), (-631_238_400, 2_524_608_000)),
        ] {
            params.not_before = date_time_ymd(from.0, from.1, from.2);
            params.not_after = date_time_ymd(to.0, to.1, to.2);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let validity = Validity::read(certificate.der()).unwrap();
            let since = |time: SystemTime| match time.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(after) => after.as_secs().cast_signed(),
                Err(before) => -before.duration().as_secs().cast_signed(),
            };
            assert_eq!((since(validity.not_before), since(validity.not_after)), seconds);
        }
        assert_eq!(Validity::read(&CertificateDer::from(b"words".to_vec())), None);
    }

    #[test]
    fn the_end_is_soon_within_a_week_or_a_fifth_of_the_time() {
        let hours = |hours: u64| Duration::from_secs(3600 * hours);
        let begin = SystemTime::UNIX_EPOCH + hours(1000);
        for (whole, far, soon) in [(90 * 24, 83 * 24, 83 * 24 + 1), (10, 8, 9)] {
            let validity = Validity {
                not_before: begin,
                not_after: begin + hours(whole),
            };
            assert_eq!(validity.end(begin + hours(far)), End::Far);
            assert_eq!(validity.end(begin + hours(soon)), End::Soon);
            assert_eq!(validity.end(begin + hours(whole)), End::Soon);
            assert_eq!(validity.end(begin + hours(whole + 1)), End::Past);
        }
    }
}
