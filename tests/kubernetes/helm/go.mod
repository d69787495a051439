// Helm, which renders the chart in tests. A module of its own, as its dependencies are of their own
// age. scripts/kubernetes builds it.
module sealwire.invalid/tests/kubernetes/helm

go 1.26.0

tool helm.sh/helm/v3/cmd/helm

require helm.sh/helm/v3 v3.22.0
