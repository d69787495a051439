{{/* Names are fixed: there is one Sealwire in a cluster, and injector, sidecar and command line know them. */}}
{{- define "sealwire.labels" -}}
app.kubernetes.io/name: sealwire
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "sealwire.injector.selector" -}}
app.kubernetes.io/name: sealwire
app.kubernetes.io/component: injector
{{- end }}

{{/* An image by digest, where there is one, else by tag. Takes (dict "root" $ "name" "proxy"). */}}
{{- define "sealwire.image" -}}
{{- $image := index .root.Values.images .name -}}
{{- $repository := printf "%s/%s" (.root.Values.images.registry | trimSuffix "/") $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{/* What the API server calls for the pods of one kind of namespace. Takes (dict "root" $ "path" "/mutate/namespace"). */}}
{{- define "sealwire.client" -}}
clientConfig:
  service:
    name: sealwire-injector
    namespace: {{ .root.Release.Namespace }}
    path: {{ .path }}
    port: 443
{{- with .root.Values.webhooks.caBundle }}
  caBundle: {{ . }}
{{- end }}
admissionReviewVersions: [v1]
# Without an answer there is no pod, rather than one that is not sealed.
failurePolicy: Fail
matchPolicy: Equivalent
timeoutSeconds: {{ .root.Values.webhooks.timeoutSeconds }}
{{- end }}

{{/* What is validated: pods, and what is put into them later. */}}
{{- define "sealwire.validated" -}}
- { apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [pods], scope: Namespaced }
- { apiGroups: [""], apiVersions: [v1], operations: [UPDATE], resources: [pods/ephemeralcontainers], scope: Namespaced }
{{- end }}

{{/* Most updates of a pod concern neither what it is nor what is said of its seal. */}}
{{- define "sealwire.changes" -}}
- name: changes-what-matters
  expression: >-
    request.operation != 'UPDATE' || object.spec != oldObject.spec
    || object.metadata.?labels != oldObject.metadata.?labels
    || object.metadata.?annotations != oldObject.metadata.?annotations
{{- end }}

{{/* An update that changes what a pod is may come from whoever wrote it, before it was sealed. */}}
{{- define "sealwire.applies" -}}
- name: changes-the-pod
  expression: request.operation != 'UPDATE' || object.spec != oldObject.spec
{{- end }}

{{/* The Secret with the serving certificate that somebody else keeps. */}}
{{- define "sealwire.certificate" -}}
{{- if eq .Values.webhooks.certificate.source "certManager" -}}
sealwire-injector-tls
{{- else -}}
{{- required "webhooks.certificate.secret.name: name the Secret with tls.crt and tls.key" .Values.webhooks.certificate.secret.name -}}
{{- end -}}
{{- end }}

{{/* Annotations of both webhook configurations; by one of them cert-manager writes its CA into them. */}}
{{- define "sealwire.webhooks.annotations" -}}
{{- if eq .Values.webhooks.certificate.source "certManager" }}
cert-manager.io/inject-ca-from: {{ .Release.Namespace }}/sealwire-injector
{{- end }}
{{- with .Values.webhooks.annotations }}
{{ toYaml . }}
{{- end }}
{{- end }}
