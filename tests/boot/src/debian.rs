//! Packages from Debian, by apt with a root of its own under `target/debian/`: the system's sources and package state are
//! read (for the mirror's address) and never changed. What was obtained stays, so that a second run needs no network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// One suite of Debian for one architecture.
pub struct Archive {
    root: PathBuf,
    suite: &'static str,
    architecture: &'static str,
}

impl Archive {
    /// The archive of `suite` ("bookworm") and `architecture` ("amd64"). Nothing is fetched yet.
    pub fn new(suite: &'static str, architecture: &'static str) -> Self {
        let root = crate::target_dir().join("debian").join(format!("{suite}-{architecture}"));
        Self { root, suite, architecture }
    }

    /// Obtains a package and returns the folder it is unpacked in.
    pub fn package(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.root.join("unpacked").join(name);
        if folder.is_dir() {
            return Ok(folder);
        }
        self.refresh()?;
        let archives = self.root.join("archives");
        let staging = self.root.join("staging").join(name);
        for fresh in [&archives, &staging] {
            if fresh.exists() {
                fs::remove_dir_all(fresh)?;
            }
            fs::create_dir_all(fresh)?;
        }
        run(self.apt("apt-get").arg("download").arg(name).current_dir(&archives))
            .with_context(|| format!("cannot obtain Debian's package '{name}'"))?;
        let Some(archive) = fs::read_dir(&archives)?.filter_map(Result::ok).map(|e| e.path()).next() else {
            bail!("apt-get download {name} left no file");
        };
        run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&staging))?;
        fs::create_dir_all(self.root.join("unpacked"))?;
        // Only a whole package gets its final name.
        fs::rename(&staging, &folder)?;
        fs::remove_dir_all(&archives)?;
        Ok(folder)
    }

    /// The kernel that a meta package (`linux-image-amd64`) stands for: the path of its `vmlinuz` or `vmlinux`.
    pub fn kernel(&self, meta: &str) -> anyhow::Result<PathBuf> {
        let marker = self.root.join(format!("{meta}.package"));
        let package = match fs::read_to_string(&marker) {
            Ok(package) => package,
            Err(_) => {
                self.refresh()?;
                let package = self.dependency(meta, "linux-image-")?;
                fs::write(&marker, &package)?;
                package
            }
        };
        let boot = self.package(&package)?.join("boot");
        fs::read_dir(&boot)?
            .filter_map(Result::ok)
            .map(|e| e.path())
            .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinu")))
            .with_context(|| format!("{} holds no kernel", boot.display()))
    }

    /// The first dependency of `package` whose name starts with `prefix`.
    fn dependency(&self, package: &str, prefix: &str) -> anyhow::Result<String> {
        let record = run(self.apt("apt-cache").args(["show", "--no-all-versions", package]))?;
        record
            .lines()
            .filter_map(|line| line.strip_prefix("Depends: "))
            .flat_map(|list| list.split([',', '|']))
            .filter_map(|dependency| dependency.split_whitespace().next())
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("package '{package}' depends on no {prefix}*"))
    }

    /// Writes the private sources and updates the package lists, once a process.
    fn refresh(&self) -> anyhow::Result<()> {
        let updated = self.root.join(format!("updated-{}", std::process::id()));
        if updated.exists() {
            return Ok(());
        }
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.root.join(folder))?;
        }
        let suite = self.suite;
        let mirror = mirror()?;
        let read_lists = |suites: &[String]| {
            let lines: String = suites.iter().map(|s| format!("deb {mirror} {s} main\n")).collect();
            fs::write(self.root.join("sources.list"), lines)?;
            run(self.apt("apt-get").args(["-q", "update"]))
        };
        let release = suite.to_owned();
        // A mirror that is just being updated may have the release whole, but not its updates.
        if read_lists(&[release.clone(), format!("{suite}-updates")]).is_err() {
            read_lists(&[release])
                .with_context(|| format!("cannot read Debian's package lists for {suite}"))?;
        }
        for old in fs::read_dir(&self.root)?.filter_map(Result::ok) {
            if old.file_name().to_string_lossy().starts_with("updated-") {
                fs::remove_file(old.path())?;
            }
        }
        fs::write(updated, "")?;
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let root = self.root.display();
        let settings = [
            format!("Dir::Etc::sourcelist={root}/sources.list"),
            "Dir::Etc::sourceparts=-".into(),
            format!("Dir::State::lists={root}/lists"),
            "Dir::State::status=/dev/null".into(),
            format!("Dir::Cache={root}/cache"),
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures={}", self.architecture),
            "APT::Get::List-Cleanup=0".into(),
            "APT::Sandbox::User=root".into(),
            "Acquire::Languages=none".into(),
            "Acquire::Retries=2".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
        ];
        for setting in settings {
            command.args(["-o", &setting]);
        }
        command.env("LC_ALL", "C");
        command
    }
}

/// The address of the Debian mirror that this system is set up with.
///
/// # Errors
/// apt names none.
pub fn mirror() -> anyhow::Result<String> {
    let targets = run(Command::new("apt-get").env("LC_ALL", "C").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(CODENAME)$(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
        "Component: main",
    ]))
    .context("apt tells no package sources")?;
    targets
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        // The main archive, not the security one nor a third party's.
        .find(|uri| uri.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
        .context("no Debian mirror among the system's package sources")
}

/// Settings for an apt that knows a release with its updates and backports, and keeps its lists apart from the system's.
pub fn sources_with_backports(codename: &str) -> anyhow::Result<Vec<String>> {
    let root = crate::target_dir().join("debian").join(format!("{codename}-backports"));
    fs::create_dir_all(root.join("lists/partial"))?;
    let mirror = mirror()?;
    let suites = ["", "-updates", "-backports"].map(|s| format!("deb {mirror} {codename}{s} main\n"));
    fs::write(root.join("sources.list"), suites.concat())?;
    let root = root.display();
    Ok(vec![
        format!("Dir::Etc::sourcelist={root}/sources.list"),
        "Dir::Etc::sourceparts=-".into(),
        format!("Dir::State::lists={root}/lists"),
        "APT::Get::List-Cleanup=0".into(),
    ])
}

/// Runs a command to its end and returns its output; the error carries what it said.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{name} failed: {}",
        said.trim().lines().last().unwrap_or("(no message)")
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The static busybox of an archive.
pub fn busybox(archive: &Archive) -> anyhow::Result<PathBuf> {
    let folder = archive.package("busybox-static")?;
    ["bin/busybox", "usr/bin/busybox"]
        .map(|p| folder.join(Path::new(p)))
        .into_iter()
        .find(|p| p.is_file())
        .context("busybox-static holds no busybox")
}
