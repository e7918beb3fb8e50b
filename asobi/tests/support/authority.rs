//! An authority of a play's own, and certificates of it in files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

/// The DNS name of all nodes.
pub const NODES: &str = "asobi.test";

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

/// A certificate and its key.
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Writes its own certificate into a folder of its name.
    pub fn new(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let dir = dir.join(name);
        fs::create_dir(&dir)?;
        fs::write(dir.join("ca.pem"), issuer.pem())?;
        Ok(Self { issuer, dir })
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Signs a certificate for a role, such as `asobi://node`.
    pub fn sign(&self, name: &str, role: &str) -> anyhow::Result<Files> {
        let mut params = CertificateParams::new(vec![NODES.to_owned()])?;
        params.subject_alt_names.push(SanType::URI(role.try_into()?));
        self.write(name, params)
    }

    /// Signs a certificate for hosts' names or addresses; again: another one in its files.
    pub fn sign_for(&self, name: &str, hosts: &[&str]) -> anyhow::Result<Files> {
        self.write(name, CertificateParams::new(hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>())?)
    }

    fn write(&self, name: &str, mut params: CertificateParams) -> anyhow::Result<Files> {
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let files = Files { cert: self.dir.join(format!("{name}.pem")), key: self.dir.join(format!("{name}.key")) };
        fs::write(&files.cert, params.signed_by(&key, &self.issuer)?.pem())?;
        fs::write(&files.key, key.serialize_pem())?;
        Ok(files)
    }
}
