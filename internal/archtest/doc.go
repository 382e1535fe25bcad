// Package archtest holds the directions of imports: a table of forbidden edges,
// each with its reason, run as a test over what `go list` says. Nothing imports
// it.
//
// The linter's depguard rules say the same to an editor at the import itself;
// this test needs nothing but Go, so it always runs.
//
// Beside it are tests of what else has to fit the tree: the map of ARCHITECTURE.md, what
// make lists, workflows, the release, and the conformance table.
package archtest
