//! The files of a report: made in memory, each by its module, then written so that a directory
//! never holds half of one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sealwire_keys::PrivateKey;
use sha2::{Digest, Sha256};

use crate::error::ReportError;
use crate::made::Made;
use crate::{cbom, dsse, oscal, page, tables};

/// A file of the report.
#[derive(Clone, Debug)]
pub(crate) struct Produced {
    pub(crate) name: &'static str,
    /// What it is, in words.
    pub(crate) about: &'static str,
    pub(crate) content: Vec<u8>,
}

impl Produced {
    /// Its digest in hexadecimal.
    pub(crate) fn sha256(&self) -> String {
        Sha256::digest(&self.content)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// Makes every file. The signature is made by `signer`, which blocks.
pub(crate) fn produce(
    made: &Made,
    signer: Option<&dyn PrivateKey>,
) -> Result<Vec<Produced>, ReportError> {
    let mut files = vec![
        Produced {
            name: "links.csv",
            about: "who talked to whom",
            content: tables::links(&made.account).into_bytes(),
        },
        Produced {
            name: "coverage.csv",
            about: "pods and their time",
            content: tables::coverage(&made.account).into_bytes(),
        },
        Produced {
            name: "bytes.csv",
            about: "what the kernel counted, against what the sidecars moved",
            content: tables::bytes(&made.account).into_bytes(),
        },
        Produced {
            name: "certificates.csv",
            about: "register of certificates, with the homes of their keys",
            content: tables::certificates(&made.account).into_bytes(),
        },
        Produced {
            name: "exceptions.csv",
            about: "what may pass unsealed",
            content: tables::exceptions(&made.account).into_bytes(),
        },
        Produced {
            name: "cbom.json",
            about: "CycloneDX bill of materials of the cryptography in use",
            content: pretty(&cbom::cbom(made))?,
        },
    ];
    // By the digests in it, its signature covers the others as well.
    let results = oscal::assessment_results(made, &files);
    files.push(Produced {
        name: "assessment-results.json",
        about: "OSCAL assessment results, for tools of auditors",
        content: pretty(&results)?,
    });
    let page = page::page(made, &files).into_bytes();
    files.insert(
        0,
        Produced {
            name: "report.html",
            about: "this page",
            content: page,
        },
    );
    if let Some(key) = signer {
        files.push(Produced {
            name: "assessment-results.json.sig",
            about: "DSSE envelope over the assessment results",
            content: pretty(&dsse::envelope("assessment-results.json", &results, key)?)?,
        });
        files.push(Produced {
            name: "signer.pem",
            about: "public half of the key that signed; have it from its owner as well",
            content: dsse::public_pem(key).into_bytes(),
        });
    }
    Ok(files)
}

/// Writes files into a directory, which is made if it is not there. A signature of an earlier
/// report does not stay beside a new one.
pub(crate) fn write(directory: &Path, files: &[Produced]) -> Result<Vec<PathBuf>, ReportError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ReportError::Write { path, source }
    };
    fs::create_dir_all(directory).map_err(failed(directory))?;
    for name in ["assessment-results.json.sig", "signer.pem"] {
        let earlier = directory.join(name);
        match fs::remove_file(&earlier) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&earlier)(error)),
        }
    }
    let mut written = Vec::new();
    for file in files {
        let path = directory.join(file.name);
        replace(&path, &file.content).map_err(failed(&path))?;
        written.push(path);
    }
    Ok(written)
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn pretty(value: &serde_json::Value) -> Result<Vec<u8>, ReportError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(ReportError::Json)?;
    text.push(b'\n');
    Ok(text)
}
