//! The manual pages and the completions, from what the program itself knows.

mod commands;
pub(crate) mod settings;

use std::fs;
use std::io;
use std::path::Path;

use clap_complete::Shell;
use firstlight::cli;
use firstlight::host::boot::build_epoch;

/// The file that shows every setting.
const COMMENTED: &str = include_str!("../../config/firstlight.toml");

/// Writes every page (`firstlight.8`, `firstlight-status.8` and so on, `firstlight.toml.5`) and every
/// completion (`firstlight.bash`, `_firstlight`, `firstlight.fish`) into `folder`, which is made if it
/// is not there.
///
/// # Errors
///
/// If a file cannot be written.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let time = build_epoch().to_string();
    let date = time.split('T').next().unwrap_or(&time);
    for (name, page) in commands::pages(date)? {
        fs::write(folder.join(name), page)?;
    }
    fs::write(folder.join("firstlight.toml.5"), settings::page(COMMENTED, date))?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut cli::command(), "firstlight", folder)?;
    }
    Ok(())
}

/// What stands at the foot of every page.
fn source() -> String {
    format!("firstlight {}", env!("CARGO_PKG_VERSION"))
}
