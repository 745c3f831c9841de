//! Character back ends as configured, opened and shared.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use rhea_chardev::{Chardev, FileChardev, Mux, MuxControl, NullChardev, StdioChardev};

use crate::config::{CharConfig, SystemConfig};
use crate::run_control::{Controller, Event};

/// Ctrl-a x.
struct QuitKey(Controller);

impl MuxControl for QuitKey {
    fn quit(&self) {
        self.0.send(Event::Quit);
    }
}

/// One declared back end.
enum Backend {
    Plain(Arc<dyn Chardev>),
    Mux(Arc<Mux>),
}

/// The back ends of a machine.
pub struct Chardevs {
    named: HashMap<String, Backend>,
    controller: Controller,
    /// Everything opened, for the flush at the end.
    opened: Vec<Arc<dyn Chardev>>,
    /// Muxes that the monitor shares (`mon:stdio`).
    monitored: Vec<Arc<Mux>>,
}

impl Chardevs {
    /// Opens what `-chardev` declares.
    pub fn open(config: &SystemConfig, controller: &Controller) -> anyhow::Result<Self> {
        let mut this = Self {
            named: HashMap::new(),
            controller: controller.clone(),
            opened: Vec::new(),
            monitored: Vec::new(),
        };
        for (id, chardev) in &config.chardevs {
            let backend = this.backend(chardev).with_context(|| format!("-chardev id={id}"))?;
            this.named.insert(id.clone(), backend);
        }
        Ok(this)
    }

    fn backend(&mut self, config: &CharConfig) -> anyhow::Result<Backend> {
        Ok(match config {
            CharConfig::Stdio { signal, mux: true } => Backend::Mux(self.mux(*signal)?),
            other => Backend::Plain(self.plain(other)?),
        })
    }

    fn plain(&mut self, config: &CharConfig) -> anyhow::Result<Arc<dyn Chardev>> {
        let chardev: Arc<dyn Chardev> = match config {
            CharConfig::Null => Arc::new(NullChardev),
            CharConfig::File { path, append, input } => {
                Arc::new(FileChardev::open(path, *append, input.as_deref())?)
            }
            CharConfig::Stdio { signal, .. } => Arc::new(StdioChardev::open(*signal)?),
            CharConfig::None | CharConfig::MonitorAndStdio | CharConfig::Named(_) => {
                bail!("{config:?} is no back end of its own")
            }
        };
        self.opened.push(chardev.clone());
        Ok(chardev)
    }

    fn mux(&mut self, signal: bool) -> anyhow::Result<Arc<Mux>> {
        let stdio: Arc<dyn Chardev> = Arc::new(StdioChardev::open(signal)?);
        self.opened.push(stdio.clone());
        Ok(Mux::new(stdio, Arc::new(QuitKey(self.controller.clone()))))
    }

    /// The back end for one front end (a port, a console, a monitor); `None` for `none`.
    pub fn connect(&mut self, config: &CharConfig) -> anyhow::Result<Option<Arc<dyn Chardev>>> {
        Ok(Some(match config {
            CharConfig::None => return Ok(None),
            CharConfig::MonitorAndStdio => {
                let mux = self.mux(false)?;
                self.monitored.push(mux.clone());
                mux.add_port()
            }
            CharConfig::Named(id) => match self.named.get(id) {
                Some(Backend::Plain(chardev)) => chardev.clone(),
                Some(Backend::Mux(mux)) => mux.add_port(),
                None => bail!("no -chardev has the id '{id}'"),
            },
            CharConfig::Stdio { mux: true, signal } => self.mux(*signal)?.add_port(),
            other => self.plain(other)?,
        }))
    }

    /// The back ends of the serial ports in order; `none` leaves no port.
    pub fn connect_serials(&mut self, serials: &[CharConfig]) -> anyhow::Result<Vec<Arc<dyn Chardev>>> {
        let connected: anyhow::Result<Vec<_>> = serials.iter().map(|serial| self.connect(serial)).collect();
        Ok(connected.context("-serial")?.into_iter().flatten().collect())
    }

    /// Ports for the monitors that share a mux with another front end. Called once, after the front ends connected:
    /// the first to connect has the focus.
    pub fn monitor_ports(&mut self) -> Vec<Arc<dyn Chardev>> {
        self.monitored.drain(..).map(|mux| mux.add_port() as Arc<dyn Chardev>).collect()
    }

    /// Waits until what the guest wrote has reached the host.
    pub fn flush(&self) {
        self.opened.iter().for_each(|c| c.flush());
    }
}
