//! Small files that are replaced as a whole.

use env::{Disk, DiskError, Env, File, OpenMode};

/// Puts `content`, whole blocks, durably in the place of the file `name` of the directory `dir` (empty: the data directory). Order:
/// a new file is synced before it is renamed over the old one.
///
/// # Errors
/// When the disk fails; what was there stays.
pub(crate) async fn replace<E: Env>(
    env: &E,
    dir: &str,
    name: &str,
    content: <E::Disk as Disk>::Buf,
) -> Result<(), DiskError> {
    let disk = env.disk();
    let path = if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    };
    let new = format!("{path}.new");
    let file = disk.create(&new, OpenMode::Write).await?;
    file.write_at(0, content).await.0?;
    file.sync().await?;
    disk.rename(&new, &path).await?;
    disk.sync_dir(dir).await
}
