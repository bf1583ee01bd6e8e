{{/* What pods share. The trainer makes the pods of runs in the same way (src/marsam/launch/kubernetes/manifest.py). */}}

{{- define "marsam.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "marsam.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* How a program reaches the store, services and runs alike: {env, secretEnv, volumes}. */}}
{{- define "marsam.store" -}}
{{- $store := .Values.store -}}
{{- $env := dict -}}
{{- $secrets := dict -}}
{{- $volumes := list -}}
{{- if hasPrefix "s3://" $store.url -}}
  {{- $_ := set $env "MARSAM_S3_REGION" $store.region -}}
  {{- if $store.endpoint -}}{{- $_ := set $env "MARSAM_S3_ENDPOINT" $store.endpoint -}}{{- end -}}
  {{- if and $store.existingSecret $store.credentialsKey -}}
    {{- $_ := set $env "MARSAM_S3_CREDENTIALS_FILE" (printf "/etc/marsam/store/%s" $store.credentialsKey) -}}
    {{- $volumes = append $volumes (dict "name" "store-keys" "mountPath" "/etc/marsam/store" "readOnly" true "source" (dict "secret" (dict "secretName" $store.existingSecret "defaultMode" 288))) -}}
  {{- else if $store.existingSecret -}}
    {{- $_ := set $secrets "MARSAM_S3_ACCESS_KEY" (dict "secret" $store.existingSecret "key" $store.accessKeyName) -}}
    {{- $_ := set $secrets "MARSAM_S3_SECRET_KEY" (dict "secret" $store.existingSecret "key" $store.secretKeyName) -}}
  {{- end -}}
  {{- if $store.caSecret -}}
    {{- $_ := set $env "MARSAM_S3_CA_FILE" (printf "/etc/marsam/store-ca/%s" $store.caKey) -}}
    {{- $volumes = append $volumes (dict "name" "store-ca" "mountPath" "/etc/marsam/store-ca" "readOnly" true "source" (dict "secret" (dict "secretName" $store.caSecret "defaultMode" 288))) -}}
  {{- end -}}
{{- else -}}
  {{- $volumes = append $volumes (dict "name" "store" "mountPath" ($store.url | trimPrefix "file://") "source" (dict "persistentVolumeClaim" (dict "claimName" $store.existingClaim))) -}}
{{- end -}}
{{- dict "env" $env "secretEnv" $secrets "volumes" $volumes | toYaml -}}
{{- end -}}

{{/* A folder of local copies: {size, existingClaim} → a volume. */}}
{{- define "marsam.cache" -}}
name: cache
mountPath: /cache
source:
  {{- if .existingClaim }}
  persistentVolumeClaim: {claimName: {{ .existingClaim | quote }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .size | quote }}}
  {{- end }}
{{- end -}}

{{- define "marsam.tls" -}}
{{- if or .Values.tls.existingSecret .Values.tls.certManager.enabled -}}yes{{- end -}}
{{- end -}}

{{- define "marsam.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "marsam.fullname" .)) -}}
{{- end -}}

{{/* The settings that every service has, and what they need mounted: {root, values} → {env, secretEnv, volumes}. */}}
{{- define "marsam.service" -}}
{{- $root := .root -}}
{{- $own := .values -}}
{{- $host := $root.Values.listenAddress -}}
{{- if contains ":" $host -}}{{- $host = printf "[%s]" $host -}}{{- end -}}
{{- $env := dict
      "HOME" "/tmp"
      "MARSAM_STORE" $root.Values.store.url
      "MARSAM_CACHE" "/cache"
      "MARSAM_LISTEN" (printf "%s:5000" $host)
      "MARSAM_HTTP_LISTEN" (printf "%s:8080" $host)
      "MARSAM_TOKEN_FILE" (printf "/etc/marsam/tokens/%s" $root.Values.auth.key)
      "MARSAM_DRAIN_SECONDS" $own.drainSeconds
      "MARSAM_GRACE_SECONDS" $own.graceSeconds
      "MARSAM_LOG_LEVEL" $root.Values.logLevel -}}
{{- $volumes := list
      (dict "name" "tmp" "mountPath" "/tmp" "source" (dict "emptyDir" (dict "sizeLimit" "1Gi")))
      (include "marsam.cache" $own.cache | fromYaml)
      (dict "name" "tokens" "mountPath" "/etc/marsam/tokens" "readOnly" true "source" (dict "secret" (dict "secretName" $root.Values.auth.existingSecret "defaultMode" 288))) -}}
{{- if include "marsam.tls" $root -}}
  {{- $_ := set $env "MARSAM_TLS_CERT_FILE" "/etc/marsam/tls/tls.crt" -}}
  {{- $_ := set $env "MARSAM_TLS_KEY_FILE" "/etc/marsam/tls/tls.key" -}}
  {{- $volumes = append $volumes (dict "name" "tls" "mountPath" "/etc/marsam/tls" "readOnly" true "source" (dict "secret" (dict "secretName" (include "marsam.tlsSecret" $root) "defaultMode" 288))) -}}
{{- end -}}
{{- if $root.Values.tls.clientCaSecret -}}
  {{- $_ := set $env "MARSAM_TLS_CLIENT_CA_FILE" (printf "/etc/marsam/client-ca/%s" $root.Values.tls.clientCaKey) -}}
  {{- $volumes = append $volumes (dict "name" "client-ca" "mountPath" "/etc/marsam/client-ca" "readOnly" true "source" (dict "secret" (dict "secretName" $root.Values.tls.clientCaSecret "defaultMode" 288))) -}}
{{- end -}}
{{- if $root.Values.store.publicEndpoint -}}{{- $_ := set $env "MARSAM_S3_PUBLIC_ENDPOINT" $root.Values.store.publicEndpoint -}}{{- end -}}
{{- range $name, $value := $own.settings -}}
  {{- $_ := set $env (printf "MARSAM_%s" (snakecase $name | upper)) $value -}}
{{- end -}}
{{- dict "env" $env "secretEnv" dict "volumes" $volumes | toYaml -}}
{{- end -}}

{{/* Everything of a service's container: {root, values, more}; `more` is the service's own {env, volumes}. What the
     values say comes last and wins. */}}
{{- define "marsam.equipment" -}}
{{- include "marsam.joined" (list (include "marsam.service" . | fromYaml) (include "marsam.store" .root | fromYaml) (.more | default dict) (pick .values "env" "secretEnv" "volumes")) -}}
{{- end -}}

{{/* Several {env, secretEnv, volumes} as one; the later win. */}}
{{- define "marsam.joined" -}}
{{- $env := dict -}}
{{- $secrets := dict -}}
{{- $volumes := list -}}
{{- range . -}}
  {{- range $name, $value := .env -}}{{- $_ := set $env $name (include "marsam.plain" $value) -}}{{- end -}}
  {{- range $name, $from := .secretEnv -}}{{- $_ := set $secrets $name $from -}}{{- end -}}
  {{- $volumes = concat $volumes (.volumes | default list) -}}
{{- end -}}
{{- range $name, $_ := $secrets -}}{{- $_ := unset $env $name -}}{{- end -}}
{{- dict "env" $env "secretEnv" $secrets "volumes" $volumes | toYaml -}}
{{- end -}}
