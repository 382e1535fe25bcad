// Package manifests checks what odin is deployed with: Kubernetes manifests (kustomize),
// compose files, the Dockerfile and its .dockerignore, and the commands for Docker and
// Kubernetes in the documentation.
//
// What has a schema is read strictly: Kubernetes' objects into the types of the API,
// compose files by the compose specification. What no schema knows is checked here: that
// a pod is given more time to stop than the gateway takes to drain, that ports and
// selectors meet, that a variable or flag is one the binary has. For the last the binary
// itself is asked.
//
// Each check takes what was read and returns what is wrong with it, one line a problem;
// the tests run them over the files of this repository, and over broken copies of them,
// which must be found out.
//
// It is a module of its own, because none of these types belongs into the gateway.
package manifests
