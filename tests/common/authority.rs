//! An authority of one's own, as companies have it, and certificates that it has issued.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

pub struct Authority {
    /// Its own certificate, in PEM form.
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM form.
pub struct Identity {
    pub certificate: String,
    pub key: String,
    /// The certificate's bytes.
    pub der: Vec<u8>,
    serial: SerialNumber,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { certificate, issuer }
    }

    /// A certificate for these names: DNS names, addresses, and URIs where they have a scheme.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.issue_for(names, 2000, 2090)
    }

    /// The same for the time from the beginning of one year to the beginning of another.
    pub fn issue_for(&self, names: &[&str], from: i32, to: i32) -> Identity {
        let (uris, others): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
        let others: Vec<_> = others.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(others).unwrap();
        let uris = uris.into_iter().map(|uri| SanType::URI(uri.try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        let serial = SerialNumber::from(rand::random::<[u8; 8]>().map(|byte| byte & 0x7f | 1).to_vec());
        params.serial_number = Some(serial.clone());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
            serial,
        }
    }

    /// Its list of revoked certificates, in PEM form.
    pub fn revocation_list(&self, revoked: &[&Identity]) -> String {
        let revoked = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: identity.serial.clone(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// Writes its own certificate.
    pub fn write(&self, folder: &Path, name: &str) -> String {
        let path = folder.join(name);
        fs::write(&path, &self.certificate).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Identity {
    /// Writes `NAME.pem` and `NAME.key`, and returns their paths.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let [certificate, key] = ["pem", "key"].map(|ending| folder.join(format!("{name}.{ending}")));
        fs::write(&certificate, &self.certificate).unwrap();
        fs::write(&key, &self.key).unwrap();
        (certificate, key)
    }
}
