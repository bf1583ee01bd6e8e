{{/* What a schema cannot see: one sentence for each. Included once, before anything is rendered. */}}
{{- define "marsam.check" -}}
{{- $has := .Capabilities.APIVersions -}}
{{- with .Values.store -}}
  {{- if not .url -}}
    {{- fail "store.url is empty: give the store, such as --set store.url=s3://my-bucket" -}}
  {{- end -}}
  {{- if and (hasPrefix "file://" .url) (not .existingClaim) -}}
    {{- fail (printf "store.url is a folder (%s) and store.existingClaim is empty: name the PersistentVolumeClaim that holds it, or use s3://" .url) -}}
  {{- end -}}
  {{- if and (hasPrefix "s3://" .url) .existingClaim -}}
    {{- fail (printf "store.existingClaim is %s and store.url is a bucket (%s): a claim is for file:// stores only" .existingClaim .url) -}}
  {{- end -}}
{{- end -}}
{{- if not .Values.auth.existingSecret -}}
  {{- fail "auth.existingSecret is empty: the services can be reached from other pods, and without a token file they refuse that; make one (docs/operations.md, Tokens) and give its Secret's name" -}}
{{- end -}}
{{- with .Values.tls -}}
  {{- if and .existingSecret .certManager.enabled -}}
    {{- fail "tls.existingSecret and tls.certManager.enabled exclude each other: give a certificate, or let cert-manager make one" -}}
  {{- end -}}
  {{- if and .clientCaSecret (not .existingSecret) (not .certManager.enabled) -}}
    {{- fail "tls.clientCaSecret asks for clients' certificates and there is no TLS: give tls.existingSecret or tls.certManager.enabled=true" -}}
  {{- end -}}
  {{- if .certManager.enabled -}}
    {{- if not .certManager.issuerName -}}
      {{- fail "tls.certManager.issuerName is empty: name the Issuer or ClusterIssuer that signs" -}}
    {{- end -}}
    {{- include "marsam.needs" (dict "root" $ "kind" "cert-manager.io/v1/Certificate" "value" "tls.certManager.enabled" "what" "cert-manager" "other" "give tls.existingSecret") -}}
  {{- end -}}
{{- end -}}
{{- with .Values.triton -}}
  {{- if .enabled -}}
    {{- if $.Values.generator.gpus -}}
      {{- fail (printf "generator.gpus is %d and triton.enabled is true: Triton draws, so the GPUs are triton.gpus; set generator.gpus=0" (int64 $.Values.generator.gpus)) -}}
    {{- end -}}
    {{- if lt (include "marsam.mebibytes" .shm | int64) 1024 -}}
      {{- fail (printf "triton.shm is %s: what Triton and its model say to each other passes through /dev/shm, give it 1Gi or more" .shm) -}}
    {{- end -}}
    {{- if ge (include "marsam.mebibytes" .shm | int64) (include "marsam.mebibytes" (dig "limits" "memory" "1Pi" .resources) | int64) -}}
      {{- fail (printf "triton.shm (%s) does not fit the memory limit (%s): what lies in /dev/shm counts against it" .shm (dig "limits" "memory" "none" .resources)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- include "marsam.checkScaling" . -}}
{{- include "marsam.checkRuns" . -}}
{{- with .Values.metrics -}}
  {{- range $option, $kind := dict "serviceMonitor" "ServiceMonitor" "podMonitor" "PodMonitor" "prometheusRule" "PrometheusRule" -}}
    {{- if (index $.Values.metrics $option).enabled -}}
      {{- include "marsam.needs" (dict "root" $ "kind" (printf "monitoring.coreos.com/v1/%s" $kind) "value" (printf "metrics.%s.enabled" $option) "what" "the Prometheus operator" "other" "leave it off and let Prometheus find the pods by their annotations") -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* {root, kind, value, what, other}: fails when the cluster does not know the kind. */}}
{{- define "marsam.needs" -}}
{{- if not (.root.Capabilities.APIVersions.Has .kind) -}}
  {{- fail (printf "%s is true and the cluster does not know %s: install %s, or %s" .value .kind .what .other) -}}
{{- end -}}
{{- end -}}

{{- define "marsam.checkScaling" -}}
{{- with .Values.generator -}}
  {{- $many := gt (int64 .replicas) 1 -}}
  {{- if .autoscaling.enabled -}}
    {{- $many = gt (int64 .autoscaling.maxReplicas) 1 -}}
    {{- if gt (int64 .autoscaling.minReplicas) (int64 .autoscaling.maxReplicas) -}}
      {{- fail (printf "generator.autoscaling.minReplicas (%d) is more than maxReplicas (%d)" (int64 .autoscaling.minReplicas) (int64 .autoscaling.maxReplicas)) -}}
    {{- end -}}
    {{- if eq .autoscaling.kind "keda" -}}
      {{- if not .autoscaling.keda.serverAddress -}}
        {{- fail "generator.autoscaling.keda.serverAddress is empty: KEDA asks Prometheus for the queued work and must know where it is" -}}
      {{- end -}}
      {{- include "marsam.needs" (dict "root" $ "kind" "keda.sh/v1alpha1/ScaledObject" "value" "generator.autoscaling.enabled" "what" "KEDA" "other" "set generator.autoscaling.kind=hpa") -}}
    {{- else if not ($.Capabilities.APIVersions.Has "custom.metrics.k8s.io/v1beta1") -}}
      {{- fail "generator.autoscaling.enabled is true and the cluster serves no custom metrics (custom.metrics.k8s.io/v1beta1): install an adapter such as prometheus-adapter, or set generator.autoscaling.kind=keda" -}}
    {{- end -}}
  {{- end -}}
  {{- if ge (include "marsam.mebibytes" .shm | int64) (include "marsam.mebibytes" (dig "limits" "memory" "1Pi" .resources) | int64) -}}
    {{- fail (printf "generator.shm (%s) does not fit the memory limit (%s): what lies in /dev/shm counts against it" .shm (dig "limits" "memory" "none" .resources)) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- define "marsam.checkRuns" -}}
{{- with .Values.runs -}}
  {{- $names := keys .profiles | sortAlpha -}}
  {{- if not (hasKey .profiles .defaultProfile) -}}
    {{- fail (printf "runs.defaultProfile is '%s' and there is no such profile: the profiles are %s" .defaultProfile (join ", " $names)) -}}
  {{- end -}}
  {{- range $name, $profile := .profiles -}}
    {{- $memory := dig "resources" "limits" "memory" "" $profile -}}
    {{- $shm := $profile.shm | default "1Gi" -}}
    {{- if ge (include "marsam.mebibytes" $shm | int64) (include "marsam.mebibytes" $memory | int64) -}}
      {{- fail (printf "runs.profiles.%s: shm (%s) does not fit the memory limit (%s): what lies in /dev/shm counts against it" $name $shm $memory) -}}
    {{- end -}}
    {{- $resource := $profile.gpuResourceName | default "nvidia.com/gpu" -}}
    {{- $allowed := get $.Values.runs.quota (printf "requests.%s" $resource) -}}
    {{- if and (ne (toString $allowed) "") (gt (int64 ($profile.gpus | default 0)) (int64 $allowed)) -}}
      {{- fail (printf "runs.profiles.%s asks for %d %s and runs.quota allows %d in all: such a run could never start" $name (int64 $profile.gpus) $resource (int64 $allowed)) -}}
    {{- end -}}
    {{- if and $profile.kueueQueue (not (or ($.Capabilities.APIVersions.Has "kueue.x-k8s.io/v1beta2/LocalQueue") ($.Capabilities.APIVersions.Has "kueue.x-k8s.io/v1beta1/LocalQueue"))) -}}
      {{- fail (printf "runs.profiles.%s.kueueQueue is '%s' and the cluster has no Kueue: its Jobs would stay suspended; install Kueue, or leave kueueQueue empty" $name $profile.kueueQueue) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
