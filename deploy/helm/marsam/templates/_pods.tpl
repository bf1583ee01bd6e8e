{{/* What pods share. */}}

{{- define "marsam.podSecurityContext" -}}
runAsNonRoot: true
{{- range $name := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- $value := index $.Values.podSecurity $name }}
{{- if not (kindIs "invalid" $value) }}
{{ $name }}: {{ include "marsam.plain" $value }}
{{- end }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "marsam.securityContext" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* How a program reaches the store; for services and runs alike. */}}
{{- define "marsam.storeEnv" -}}
{{- with .Values.store }}
{{- if hasPrefix "s3://" .url }}
- name: MARSAM_S3_REGION
  value: {{ .region | quote }}
{{- with .endpoint }}
- name: MARSAM_S3_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- if .existingSecret }}
- name: MARSAM_S3_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .accessKeyName | quote }}}}
- name: MARSAM_S3_SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .secretKeyName | quote }}}}
{{- end }}
{{- if .caSecret }}
- name: MARSAM_S3_CA_FILE
  value: {{ printf "/etc/marsam/store/%s" .caKey | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "marsam.storeVolumes" -}}
{{- if .Values.store.existingClaim }}
- name: store
  persistentVolumeClaim: {claimName: {{ .Values.store.existingClaim | quote }}}
{{- end }}
{{- if .Values.store.caSecret }}
- name: store-ca
  secret: {secretName: {{ .Values.store.caSecret | quote }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "marsam.storeMounts" -}}
{{- if .Values.store.existingClaim }}
- {name: store, mountPath: {{ .Values.store.url | trimPrefix "file://" | quote }}}
{{- end }}
{{- if .Values.store.caSecret }}
- {name: store-ca, mountPath: /etc/marsam/store, readOnly: true}
{{- end }}
{{- end -}}

{{/* A folder of local copies: {size, existingClaim}. */}}
{{- define "marsam.cacheVolume" -}}
- name: cache
{{- if .existingClaim }}
  persistentVolumeClaim: {claimName: {{ .existingClaim | quote }}}
{{- else }}
  emptyDir: {sizeLimit: {{ .size | quote }}}
{{- end }}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- end -}}

{{- define "marsam.tls" -}}
{{- if or .Values.tls.existingSecret .Values.tls.certManager.enabled -}}yes{{- end -}}
{{- end -}}

{{- define "marsam.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "marsam.fullname" .)) -}}
{{- end -}}

{{- define "marsam.grpcListen" -}}
{{- ternary (printf "[%s]" .Values.listenAddress) .Values.listenAddress (contains ":" .Values.listenAddress) -}}
{{- end -}}
