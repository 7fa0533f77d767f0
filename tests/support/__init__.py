"""What several tests and campaigns use. No test module is imported by another: it comes here.

The signer and its clients:

- `harness`: a whole signer in this process, on a simulated HSM, and a client that speaks HTTP.
- `octezclient`, `octezsocketclient`: clients that are as strict as those of Octez.
- `daemonprocess`: the daemon as a process; `commandtest`: the command in this one.
- `processcase`, `tlscase`, `listenercase`: cases with a daemon, HTTPS, all listeners.
- `fakeconnection`: a connection that is only what its slot asks of it.
- `deciding`: requests as rules get them, and a policy; `recorder`: an observer of decisions.
- `racecase`: a signer whose boards, store and disk do what the test says, when it says it.
- `explaincase`: what `explain` says, with a store and a configuration.
- `policytable`: the table of what is signed under which rules, and its page; `operationpayloads`:
  what `forging` makes of operations of which a test says only what it cares for.

The HSM:

- `fakeboard`: a board and its port, answered by the test; `boardscase`: a pool of such boards.
- `hsmdevice`: questions to the simulated HSM, and what its answers have to be.
- `hsmfaults`: a simulated HSM that misbehaves.
- `hsmconformance`: what each HSM promises, whether it is the simulated one or a board.
- `usbports`: serial ports as the system lists them.

Watermarks:

- `stores`: all fake stores and writers, and faults beneath real ones.
- `changedclaim`: a claim that behaves otherwise than it should;
  `oldstores`: files of schema version 2.
- `sqlitecase`, `etcdcase`: test cases for the store in a file, and for that in etcd.
- `fakeetcd`: an etcd in memory; `scriptedmembers`: members that answer as a test says;
  `etcdcluster`: real members.
- `storeconformance`: what each kind of store promises.
- `statemachine`: watermarks beside a model of them, with `modeldaemon` for each daemon and
  `storeplaces` for each kind of store.

The audit log:

- `auditlogs`: logs as the chain makes them, and what is found in them.

Data and surroundings:

- `vectors`: recorded payloads, frames and exchanges; `strategies`: generated ones.
- `genericpayloads`: operations of each common kind as bytes, of any account; `operationscase`:
  recorded ones, and assertions on what is decoded.
- `forging`: whole operations and Micheline as bytes, made anew; `operationjson`: decoded ones as
  JSON; `michelinenodes`: generated expressions, and Michelson text read again.
- `configurations`: good and wrong ones; `certificates`: authorities and what they certify.
- `programs`: other people's programs as processes.
- `pages`: the documents of this project, their commands and links; `shellsession`: a shell in
  which their commands are run.
- `owndirectory`, `filewatch`, `tcpproxy`, `missingcurve`: directories, files, networks and a
  library as a test wants them.
"""
