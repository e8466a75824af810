{{- /* Names, labels, images and what all pods of the chart have in common. */ -}}

{{- define "rft-operator.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "rft-operator.instanceLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Of the operator's own pods. */ -}}
{{- define "rft-operator.selector" -}}
{{ include "rft-operator.instanceLabels" . }}
app.kubernetes.io/component: operator
{{- end }}

{{- /* Of the gateway's pods. */ -}}
{{- define "rft-operator.gatewaySelector" -}}
{{ include "rft-operator.instanceLabels" . }}
app.kubernetes.io/component: gateway
{{- end }}

{{- define "rft-operator.labels" -}}
{{ include "rft-operator.instanceLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "rft-operator.registryImage" -}}
{{- printf "%s/%s:%s" .root.Values.image.registry .name (.root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- end }}

{{- define "rft-operator.operatorImage" -}}
{{- .Values.images.operator | default (include "rft-operator.registryImage" (dict "root" . "name" "rft-operator")) -}}
{{- end }}

{{- define "rft-operator.gatewayImage" -}}
{{- .Values.images.gateway | default (include "rft-operator.registryImage" (dict "root" . "name" "rft-gateway")) -}}
{{- end }}

{{- /* The image arguments of the operator. */ -}}
{{- define "rft-operator.imageArguments" -}}
{{- $root := . -}}
{{- $images := dict
  "trainer" (list .Values.images.trainer (printf "rft-trainer-%s" .Values.accelerator))
  "reward" (list .Values.images.reward "rft-reward")
  "loader" (list .Values.images.loader "rft-loader")
  "server-cuda" (list .Values.images.serverCuda "rft-trainer-cuda")
  "server-cpu" (list .Values.images.serverCpu "rft-trainer-cpu") -}}
{{- range $name, $image := $images }}
- --{{ $name }}-image={{ first $image | default (include "rft-operator.registryImage" (dict "root" $root "name" (last $image))) }}
{{- end }}
{{- end }}

{{- define "rft-operator.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "rft-operator.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "rft-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Namespaces whose pods the operator deals with, as a selector of network policies. */ -}}
{{- define "rft-operator.namespaceSelector" -}}
{{- if .Values.watchNamespaces -}}
matchExpressions:
  - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson .Values.watchNamespaces }}}
{{- else -}}
{}
{{- end }}
{{- end }}

{{- define "rft-operator.testNamespace" -}}
{{- first .Values.watchNamespaces | default .Release.Namespace -}}
{{- end }}

{{- define "rft-operator.gatewayName" -}}
{{- include "rft-operator.name" . }}-gateway
{{- end }}

{{- /* Base URL of the gateway for clients in the cluster. */ -}}
{{- define "rft-operator.gatewayUrl" -}}
{{- $scheme := ternary "https" "http" (ne .Values.gateway.tls.secretName "") -}}
{{- printf "%s://%s.%s.svc:%v/v1" $scheme (include "rft-operator.gatewayName" .) .Release.Namespace .Values.gateway.service.port -}}
{{- end }}

{{- /* What the operator asks each pod of the gateway for: how many requests there are. */ -}}
{{- define "rft-operator.gatewayDemandUrl" -}}
{{- printf "http://%s-pods.%s.svc:9090" (include "rft-operator.gatewayName" .) .Release.Namespace -}}
{{- end }}
