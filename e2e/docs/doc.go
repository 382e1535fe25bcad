// Package docs holds the documentation to the binary: what it tells a reader to type
// is typed, what it says is printed is compared, what it points at must be there.
//
// Looked at are README.md, CONTRIBUTING.md, SECURITY.md, ARCHITECTURE.md, CHANGELOG.md,
// docs/**/*.md, bench/README.md, clients/*/README.md and e2e/**/README.md.
//
// # How to write a document
//
// The first word behind a fence is its language, the rest says what the test does
// with it:
//
//	```sh                    commands. They are run, all of a document in order, in one
//	                         shell, at the root of a copy of this repository with
//	                         bin/odin built, in a network of its own. Each must exit
//	                         with 0
//	```sh exit=2             the last of them must exit with 2
//	```sh docker             needs a container engine: not run
//	```sh kubectl            needs a cluster: not run
//	```sh not-run: REASON    can't be run, and why
//	```console               directly below commands: what they print, all or a part
//	```yaml file=odin.yml    is written to that file before what follows is run
//	```go, ```js, ```json    must compile, parse
//	```text                  anything else
//
// A command that may be named anywhere but is not for a test (make bench: minutes) is
// in the table of unrun_test.go with its reason, and needs no mark. What is not run is
// listed by go test -v, and still checked: the targets of make and the commands, flags
// and values of odin must exist, and so must files it names. A fence without a language
// that holds a command fails, so nothing escapes by being forgotten.
//
// odin serve and make run are put in the background and waited for; what else ends with
// & must not have failed half a second later. odin tail and odin feed synth without an
// end are stopped once they have printed something. A document that starts no gateway is
// given one.
//
// A line of output must be among those printed, in the same order. Epochs, numbers of
// messages, times, names of nodes and connections may be others; "…" stands for
// anything, a line of "…" for any lines. "```console numbers" lets all numbers differ.
//
// Lines that begin with → and ← in a fence are a session with the gateway: what goes
// up is sent, what comes down must have the same keys and values, with positions that
// fit each other.
package docs
