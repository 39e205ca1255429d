//! `corelane version`.

use crate::args::Global;
use crate::error::{Exit, Outcome};
use crate::output::{Object, print};
use clap::Args;

/// Print the version and how this binary was built
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {}

pub(crate) fn run(global: &Global) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let json = Object::new()
        .set("version", version)
        .set("profile", profile)
        .set("os", os)
        .set("arch", arch)
        .build();
    print(
        global,
        format_args!("corelane {version} ({profile}, {os} {arch})"),
        &json,
    )?;
    Ok(Exit::Ok)
}
