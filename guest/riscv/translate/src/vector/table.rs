//! Each vector instruction: its method, its variant, and what it is to `rhea-riscv-vector`, by the format of its operands.

/// Hands the table of `v.isa` to a macro.
macro_rules! instructions_of_v {
    ($then:ident) => {
        $then! {
            Vsetvli {
                vsetvli Vsetvli SetVl;
            }
            Vsetivli {
                vsetivli Vsetivli SetVl;
            }
            R {
                vsetvl Vsetvl SetVl;
            }
            VWholeLoad {
                vlm_v VlmV (MaskBits, 0, 1);
                vl1re8_v Vl1re8V (Whole, 0, 1);
                vl1re16_v Vl1re16V (Whole, 1, 1);
                vl1re32_v Vl1re32V (Whole, 2, 1);
                vl1re64_v Vl1re64V (Whole, 3, 1);
                vl2re8_v Vl2re8V (Whole, 0, 2);
                vl2re16_v Vl2re16V (Whole, 1, 2);
                vl2re32_v Vl2re32V (Whole, 2, 2);
                vl2re64_v Vl2re64V (Whole, 3, 2);
                vl4re8_v Vl4re8V (Whole, 0, 4);
                vl4re16_v Vl4re16V (Whole, 1, 4);
                vl4re32_v Vl4re32V (Whole, 2, 4);
                vl4re64_v Vl4re64V (Whole, 3, 4);
                vl8re8_v Vl8re8V (Whole, 0, 8);
                vl8re16_v Vl8re16V (Whole, 1, 8);
                vl8re32_v Vl8re32V (Whole, 2, 8);
                vl8re64_v Vl8re64V (Whole, 3, 8);
            }
            VWholeStore {
                vsm_v VsmV (MaskBits, 0, 1);
                vs1r_v Vs1rV (Whole, 0, 1);
                vs2r_v Vs2rV (Whole, 0, 2);
                vs4r_v Vs4rV (Whole, 0, 4);
                vs8r_v Vs8rV (Whole, 0, 8);
            }
            VLoad {
                vle8_v Vle8V (UnitStride, 0, 0);
                vle16_v Vle16V (UnitStride, 1, 0);
                vle32_v Vle32V (UnitStride, 2, 0);
                vle64_v Vle64V (UnitStride, 3, 0);
                vle8ff_v Vle8ffV (FaultOnlyFirst, 0, 0);
                vle16ff_v Vle16ffV (FaultOnlyFirst, 1, 0);
                vle32ff_v Vle32ffV (FaultOnlyFirst, 2, 0);
                vle64ff_v Vle64ffV (FaultOnlyFirst, 3, 0);
            }
            VStore {
                vse8_v Vse8V (UnitStride, 0, 0);
                vse16_v Vse16V (UnitStride, 1, 0);
                vse32_v Vse32V (UnitStride, 2, 0);
                vse64_v Vse64V (UnitStride, 3, 0);
            }
            VStrided {
                vlse8_v Vlse8V (Strided, 0, 0);
                vlse16_v Vlse16V (Strided, 1, 0);
                vlse32_v Vlse32V (Strided, 2, 0);
                vlse64_v Vlse64V (Strided, 3, 0);
            }
            VStridedStore {
                vsse8_v Vsse8V (Strided, 0, 0);
                vsse16_v Vsse16V (Strided, 1, 0);
                vsse32_v Vsse32V (Strided, 2, 0);
                vsse64_v Vsse64V (Strided, 3, 0);
            }
            VIndexed {
                vluxei8_v Vluxei8V (Indexed, 0, 0);
                vluxei16_v Vluxei16V (Indexed, 1, 0);
                vluxei32_v Vluxei32V (Indexed, 2, 0);
                vluxei64_v Vluxei64V (Indexed, 3, 0);
                vloxei8_v Vloxei8V (Indexed, 0, 0);
                vloxei16_v Vloxei16V (Indexed, 1, 0);
                vloxei32_v Vloxei32V (Indexed, 2, 0);
                vloxei64_v Vloxei64V (Indexed, 3, 0);
            }
            VIndexedStore {
                vsuxei8_v Vsuxei8V (Indexed, 0, 0);
                vsuxei16_v Vsuxei16V (Indexed, 1, 0);
                vsuxei32_v Vsuxei32V (Indexed, 2, 0);
                vsuxei64_v Vsuxei64V (Indexed, 3, 0);
                vsoxei8_v Vsoxei8V (Indexed, 0, 0);
                vsoxei16_v Vsoxei16V (Indexed, 1, 0);
                vsoxei32_v Vsoxei32V (Indexed, 2, 0);
                vsoxei64_v Vsoxei64V (Indexed, 3, 0);
            }
            PlainV2 {
                vmv1r_v Vmv1rV Registers(1);
                vmv2r_v Vmv2rV Registers(2);
                vmv4r_v Vmv4rV Registers(4);
                vmv8r_v Vmv8rV Registers(8);
            }
            Vv {
                vadd_vv VaddVv Vadd;
                vsub_vv VsubVv Vsub;
                vminu_vv VminuVv Vminu;
                vmin_vv VminVv Vmin;
                vmaxu_vv VmaxuVv Vmaxu;
                vmax_vv VmaxVv Vmax;
                vand_vv VandVv Vand;
                vor_vv VorVv Vor;
                vxor_vv VxorVv Vxor;
                vrgather_vv VrgatherVv Vrgather;
                vrgatherei16_vv Vrgatherei16Vv Vrgatherei16;
                vsaddu_vv VsadduVv Vsaddu;
                vsadd_vv VsaddVv Vsadd;
                vssubu_vv VssubuVv Vssubu;
                vssub_vv VssubVv Vssub;
                vsll_vv VsllVv Vsll;
                vsmul_vv VsmulVv Vsmul;
                vsrl_vv VsrlVv Vsrl;
                vsra_vv VsraVv Vsra;
                vssrl_vv VssrlVv Vssrl;
                vssra_vv VssraVv Vssra;
                vnsrl_wv VnsrlWv Vnsrl;
                vnsra_wv VnsraWv Vnsra;
                vnclipu_wv VnclipuWv Vnclipu;
                vnclip_wv VnclipWv Vnclip;
                vaaddu_vv VaadduVv Vaaddu;
                vaadd_vv VaaddVv Vaadd;
                vasubu_vv VasubuVv Vasubu;
                vasub_vv VasubVv Vasub;
                vdivu_vv VdivuVv Vdivu;
                vdiv_vv VdivVv Vdiv;
                vremu_vv VremuVv Vremu;
                vrem_vv VremVv Vrem;
                vmulhu_vv VmulhuVv Vmulhu;
                vmul_vv VmulVv Vmul;
                vmulhsu_vv VmulhsuVv Vmulhsu;
                vmulh_vv VmulhVv Vmulh;
                vwaddu_vv VwadduVv Vwaddu;
                vwadd_vv VwaddVv Vwadd;
                vwsubu_vv VwsubuVv Vwsubu;
                vwsub_vv VwsubVv Vwsub;
                vwaddu_wv VwadduWv VwadduW;
                vwadd_wv VwaddWv VwaddW;
                vwsubu_wv VwsubuWv VwsubuW;
                vwsub_wv VwsubWv VwsubW;
                vwmulu_vv VwmuluVv Vwmulu;
                vwmulsu_vv VwmulsuVv Vwmulsu;
                vwmul_vv VwmulVv Vwmul;
                vfadd_vv VfaddVv Vfadd;
                vfsub_vv VfsubVv Vfsub;
                vfmin_vv VfminVv Vfmin;
                vfmax_vv VfmaxVv Vfmax;
                vfsgnj_vv VfsgnjVv Vfsgnj;
                vfsgnjn_vv VfsgnjnVv Vfsgnjn;
                vfsgnjx_vv VfsgnjxVv Vfsgnjx;
                vfdiv_vv VfdivVv Vfdiv;
                vfmul_vv VfmulVv Vfmul;
                vfwadd_vv VfwaddVv Vfwadd;
                vfwsub_vv VfwsubVv Vfwsub;
                vfwadd_wv VfwaddWv VfwaddW;
                vfwsub_wv VfwsubWv VfwsubW;
                vfwmul_vv VfwmulVv Vfwmul;
            }
            Vx {
                vadd_vx VaddVx Vadd;
                vsub_vx VsubVx Vsub;
                vrsub_vx VrsubVx Vrsub;
                vminu_vx VminuVx Vminu;
                vmin_vx VminVx Vmin;
                vmaxu_vx VmaxuVx Vmaxu;
                vmax_vx VmaxVx Vmax;
                vand_vx VandVx Vand;
                vor_vx VorVx Vor;
                vxor_vx VxorVx Vxor;
                vrgather_vx VrgatherVx Vrgather;
                vslideup_vx VslideupVx Vslideup;
                vslidedown_vx VslidedownVx Vslidedown;
                vsaddu_vx VsadduVx Vsaddu;
                vsadd_vx VsaddVx Vsadd;
                vssubu_vx VssubuVx Vssubu;
                vssub_vx VssubVx Vssub;
                vsll_vx VsllVx Vsll;
                vsmul_vx VsmulVx Vsmul;
                vsrl_vx VsrlVx Vsrl;
                vsra_vx VsraVx Vsra;
                vssrl_vx VssrlVx Vssrl;
                vssra_vx VssraVx Vssra;
                vnsrl_wx VnsrlWx Vnsrl;
                vnsra_wx VnsraWx Vnsra;
                vnclipu_wx VnclipuWx Vnclipu;
                vnclip_wx VnclipWx Vnclip;
                vaaddu_vx VaadduVx Vaaddu;
                vaadd_vx VaaddVx Vaadd;
                vasubu_vx VasubuVx Vasubu;
                vasub_vx VasubVx Vasub;
                vslide1up_vx Vslide1upVx Vslide1up;
                vslide1down_vx Vslide1downVx Vslide1down;
                vdivu_vx VdivuVx Vdivu;
                vdiv_vx VdivVx Vdiv;
                vremu_vx VremuVx Vremu;
                vrem_vx VremVx Vrem;
                vmulhu_vx VmulhuVx Vmulhu;
                vmul_vx VmulVx Vmul;
                vmulhsu_vx VmulhsuVx Vmulhsu;
                vmulh_vx VmulhVx Vmulh;
                vwaddu_vx VwadduVx Vwaddu;
                vwadd_vx VwaddVx Vwadd;
                vwsubu_vx VwsubuVx Vwsubu;
                vwsub_vx VwsubVx Vwsub;
                vwaddu_wx VwadduWx VwadduW;
                vwadd_wx VwaddWx VwaddW;
                vwsubu_wx VwsubuWx VwsubuW;
                vwsub_wx VwsubWx VwsubW;
                vwmulu_vx VwmuluVx Vwmulu;
                vwmulsu_vx VwmulsuVx Vwmulsu;
                vwmul_vx VwmulVx Vwmul;
            }
            Vi {
                vadd_vi VaddVi Vadd;
                vrsub_vi VrsubVi Vrsub;
                vand_vi VandVi Vand;
                vor_vi VorVi Vor;
                vxor_vi VxorVi Vxor;
                vsaddu_vi VsadduVi Vsaddu;
                vsadd_vi VsaddVi Vsadd;
            }
            Vu {
                vrgather_vi VrgatherVi Vrgather;
                vslideup_vi VslideupVi Vslideup;
                vslidedown_vi VslidedownVi Vslidedown;
                vsll_vi VsllVi Vsll;
                vsrl_vi VsrlVi Vsrl;
                vsra_vi VsraVi Vsra;
                vssrl_vi VssrlVi Vssrl;
                vssra_vi VssraVi Vssra;
                vnsrl_wi VnsrlWi Vnsrl;
                vnsra_wi VnsraWi Vnsra;
                vnclipu_wi VnclipuWi Vnclipu;
                vnclip_wi VnclipWi Vnclip;
            }
            CarryVv {
                vadc_vvm VadcVvm Vadc;
                vmadc_vvm VmadcVvm VmadcM;
                vsbc_vvm VsbcVvm Vsbc;
                vmsbc_vvm VmsbcVvm VmsbcM;
                vmerge_vvm VmergeVvm Vmerge;
            }
            CarryVx {
                vadc_vxm VadcVxm Vadc;
                vmadc_vxm VmadcVxm VmadcM;
                vsbc_vxm VsbcVxm Vsbc;
                vmsbc_vxm VmsbcVxm VmsbcM;
                vmerge_vxm VmergeVxm Vmerge;
            }
            CarryVi {
                vadc_vim VadcVim Vadc;
                vmadc_vim VmadcVim VmadcM;
                vmerge_vim VmergeVim Vmerge;
            }
            PlainVv {
                vmadc_vv VmadcVv Vmadc;
                vmsbc_vv VmsbcVv Vmsbc;
                vcompress_vm VcompressVm Vcompress;
                vmandn_mm VmandnMm Vmandn;
                vmand_mm VmandMm Vmand;
                vmor_mm VmorMm Vmor;
                vmxor_mm VmxorMm Vmxor;
                vmorn_mm VmornMm Vmorn;
                vmnand_mm VmnandMm Vmnand;
                vmnor_mm VmnorMm Vmnor;
                vmxnor_mm VmxnorMm Vmxnor;
            }
            PlainVx {
                vmadc_vx VmadcVx Vmadc;
                vmsbc_vx VmsbcVx Vmsbc;
            }
            PlainVi {
                vmadc_vi VmadcVi Vmadc;
            }
            SplatV {
                vmv_v_v VmvVV Vmv;
            }
            SplatX {
                vmv_v_x VmvVX Vmv;
                vmv_s_x VmvSX VmvSX;
            }
            SplatI {
                vmv_v_i VmvVI Vmv;
            }
            MaskVv {
                vmseq_vv VmseqVv Vmseq;
                vmsne_vv VmsneVv Vmsne;
                vmsltu_vv VmsltuVv Vmsltu;
                vmslt_vv VmsltVv Vmslt;
                vmsleu_vv VmsleuVv Vmsleu;
                vmsle_vv VmsleVv Vmsle;
                vwredsumu_vs VwredsumuVs Vwredsumu;
                vwredsum_vs VwredsumVs Vwredsum;
                vredsum_vs VredsumVs Vredsum;
                vredand_vs VredandVs Vredand;
                vredor_vs VredorVs Vredor;
                vredxor_vs VredxorVs Vredxor;
                vredminu_vs VredminuVs Vredminu;
                vredmin_vs VredminVs Vredmin;
                vredmaxu_vs VredmaxuVs Vredmaxu;
                vredmax_vs VredmaxVs Vredmax;
                vfredusum_vs VfredusumVs Vfredusum;
                vfredosum_vs VfredosumVs Vfredosum;
                vfredmin_vs VfredminVs Vfredmin;
                vfredmax_vs VfredmaxVs Vfredmax;
                vmfeq_vv VmfeqVv Vmfeq;
                vmfle_vv VmfleVv Vmfle;
                vmflt_vv VmfltVv Vmflt;
                vmfne_vv VmfneVv Vmfne;
                vfwredusum_vs VfwredusumVs Vfwredusum;
                vfwredosum_vs VfwredosumVs Vfwredosum;
            }
            MaskVx {
                vmseq_vx VmseqVx Vmseq;
                vmsne_vx VmsneVx Vmsne;
                vmsltu_vx VmsltuVx Vmsltu;
                vmslt_vx VmsltVx Vmslt;
                vmsleu_vx VmsleuVx Vmsleu;
                vmsle_vx VmsleVx Vmsle;
                vmsgtu_vx VmsgtuVx Vmsgtu;
                vmsgt_vx VmsgtVx Vmsgt;
            }
            MaskVi {
                vmseq_vi VmseqVi Vmseq;
                vmsne_vi VmsneVi Vmsne;
                vmsleu_vi VmsleuVi Vmsleu;
                vmsle_vi VmsleVi Vmsle;
                vmsgtu_vi VmsgtuVi Vmsgtu;
                vmsgt_vi VmsgtVi Vmsgt;
            }
            ExtractX {
                vmv_x_s VmvXS VmvXS;
            }
            Count {
                vcpop_m VcpopM VcpopM;
                vfirst_m VfirstM VfirstM;
            }
            V2 {
                vzext_vf8 VzextVf8 Vzext8;
                vsext_vf8 VsextVf8 Vsext8;
                vzext_vf4 VzextVf4 Vzext4;
                vsext_vf4 VsextVf4 Vsext4;
                vzext_vf2 VzextVf2 Vzext2;
                vsext_vf2 VsextVf2 Vsext2;
                vmsbf_m VmsbfM Vmsbf;
                vmsof_m VmsofM Vmsof;
                vmsif_m VmsifM Vmsif;
                viota_m ViotaM Viota;
                vfcvt_xu_f_v VfcvtXuFV VfcvtXuF;
                vfcvt_x_f_v VfcvtXFV VfcvtXF;
                vfcvt_f_xu_v VfcvtFXuV VfcvtFXu;
                vfcvt_f_x_v VfcvtFXV VfcvtFX;
                vfcvt_rtz_xu_f_v VfcvtRtzXuFV VfcvtRtzXuF;
                vfcvt_rtz_x_f_v VfcvtRtzXFV VfcvtRtzXF;
                vfwcvt_xu_f_v VfwcvtXuFV VfwcvtXuF;
                vfwcvt_x_f_v VfwcvtXFV VfwcvtXF;
                vfwcvt_f_xu_v VfwcvtFXuV VfwcvtFXu;
                vfwcvt_f_x_v VfwcvtFXV VfwcvtFX;
                vfwcvt_f_f_v VfwcvtFFV VfwcvtFF;
                vfwcvt_rtz_xu_f_v VfwcvtRtzXuFV VfwcvtRtzXuF;
                vfwcvt_rtz_x_f_v VfwcvtRtzXFV VfwcvtRtzXF;
                vfncvt_xu_f_w VfncvtXuFW VfncvtXuF;
                vfncvt_x_f_w VfncvtXFW VfncvtXF;
                vfncvt_f_xu_w VfncvtFXuW VfncvtFXu;
                vfncvt_f_x_w VfncvtFXW VfncvtFX;
                vfncvt_f_f_w VfncvtFFW VfncvtFF;
                vfncvt_rod_f_f_w VfncvtRodFFW VfncvtRodFF;
                vfncvt_rtz_xu_f_w VfncvtRtzXuFW VfncvtRtzXuF;
                vfncvt_rtz_x_f_w VfncvtRtzXFW VfncvtRtzXF;
                vfsqrt_v VfsqrtV Vfsqrt;
                vfrsqrt7_v Vfrsqrt7V Vfrsqrt7;
                vfrec7_v Vfrec7V Vfrec7;
                vfclass_v VfclassV Vfclass;
            }
            Index {
                vid_v VidV Vid;
            }
            AccVv {
                vmadd_vv VmaddVv Vmadd;
                vnmsub_vv VnmsubVv Vnmsub;
                vmacc_vv VmaccVv Vmacc;
                vnmsac_vv VnmsacVv Vnmsac;
                vwmaccu_vv VwmaccuVv Vwmaccu;
                vwmacc_vv VwmaccVv Vwmacc;
                vwmaccsu_vv VwmaccsuVv Vwmaccsu;
                vfmadd_vv VfmaddVv Vfmadd;
                vfnmadd_vv VfnmaddVv Vfnmadd;
                vfmsub_vv VfmsubVv Vfmsub;
                vfnmsub_vv VfnmsubVv Vfnmsub;
                vfmacc_vv VfmaccVv Vfmacc;
                vfnmacc_vv VfnmaccVv Vfnmacc;
                vfmsac_vv VfmsacVv Vfmsac;
                vfnmsac_vv VfnmsacVv Vfnmsac;
                vfwmacc_vv VfwmaccVv Vfwmacc;
                vfwnmacc_vv VfwnmaccVv Vfwnmacc;
                vfwmsac_vv VfwmsacVv Vfwmsac;
                vfwnmsac_vv VfwnmsacVv Vfwnmsac;
            }
            AccVx {
                vmadd_vx VmaddVx Vmadd;
                vnmsub_vx VnmsubVx Vnmsub;
                vmacc_vx VmaccVx Vmacc;
                vnmsac_vx VnmsacVx Vnmsac;
                vwmaccu_vx VwmaccuVx Vwmaccu;
                vwmacc_vx VwmaccVx Vwmacc;
                vwmaccus_vx VwmaccusVx Vwmaccus;
                vwmaccsu_vx VwmaccsuVx Vwmaccsu;
            }
            Vf {
                vfadd_vf VfaddVf Vfadd;
                vfsub_vf VfsubVf Vfsub;
                vfmin_vf VfminVf Vfmin;
                vfmax_vf VfmaxVf Vfmax;
                vfsgnj_vf VfsgnjVf Vfsgnj;
                vfsgnjn_vf VfsgnjnVf Vfsgnjn;
                vfsgnjx_vf VfsgnjxVf Vfsgnjx;
                vfslide1up_vf Vfslide1upVf Vfslide1up;
                vfslide1down_vf Vfslide1downVf Vfslide1down;
                vfdiv_vf VfdivVf Vfdiv;
                vfrdiv_vf VfrdivVf Vfrdiv;
                vfmul_vf VfmulVf Vfmul;
                vfrsub_vf VfrsubVf Vfrsub;
                vfwadd_vf VfwaddVf Vfwadd;
                vfwsub_vf VfwsubVf Vfwsub;
                vfwadd_wf VfwaddWf VfwaddW;
                vfwsub_wf VfwsubWf VfwsubW;
                vfwmul_vf VfwmulVf Vfwmul;
            }
            ExtractF {
                vfmv_f_s VfmvFS VfmvFS;
            }
            SplatF {
                vfmv_s_f VfmvSF VfmvSF;
                vfmv_v_f VfmvVF Vfmv;
            }
            CarryVf {
                vfmerge_vfm VfmergeVfm Vfmerge;
            }
            MaskVf {
                vmfeq_vf VmfeqVf Vmfeq;
                vmfle_vf VmfleVf Vmfle;
                vmflt_vf VmfltVf Vmflt;
                vmfne_vf VmfneVf Vmfne;
                vmfgt_vf VmfgtVf Vmfgt;
                vmfge_vf VmfgeVf Vmfge;
            }
            AccVf {
                vfmadd_vf VfmaddVf Vfmadd;
                vfnmadd_vf VfnmaddVf Vfnmadd;
                vfmsub_vf VfmsubVf Vfmsub;
                vfnmsub_vf VfnmsubVf Vfnmsub;
                vfmacc_vf VfmaccVf Vfmacc;
                vfnmacc_vf VfnmaccVf Vfnmacc;
                vfmsac_vf VfmsacVf Vfmsac;
                vfnmsac_vf VfnmsacVf Vfnmsac;
                vfwmacc_vf VfwmaccVf Vfwmacc;
                vfwnmacc_vf VfwnmaccVf Vfwnmacc;
                vfwmsac_vf VfwmsacVf Vfwmsac;
                vfwnmsac_vf VfwnmsacVf Vfwnmsac;
            }
        }
    };
}

/// Hands the table of `zvk.isa` to a macro.
macro_rules! instructions_of_zvk {
    ($then:ident) => {
        $then! {
            Vv {
                vandn_vv VandnVv Vandn;
                vrol_vv VrolVv Vrol;
                vror_vv VrorVv Vror;
                vwsll_vv VwsllVv Vwsll;
                vclmul_vv VclmulVv Vclmul;
                vclmulh_vv VclmulhVv Vclmulh;
            }
            Vx {
                vandn_vx VandnVx Vandn;
                vrol_vx VrolVx Vrol;
                vror_vx VrorVx Vror;
                vwsll_vx VwsllVx Vwsll;
                vclmul_vx VclmulVx Vclmul;
                vclmulh_vx VclmulhVx Vclmulh;
            }
            V2 {
                vbrev8_v Vbrev8V Vbrev8;
                vrev8_v Vrev8V Vrev8;
                vbrev_v VbrevV Vbrev;
                vclz_v VclzV Vclz;
                vctz_v VctzV Vctz;
                vcpop_v VcpopV VcpopV;
            }
            Vu6 {
                vror_vi VrorVi Vror;
            }
            Vu {
                vwsll_vi VwsllVi Vwsll;
            }
            PlainV2 {
                vgmul_vv VgmulVv Vgmul;
                vaesdm_vv VaesdmVv VaesdmVV;
                vaesdf_vv VaesdfVv VaesdfVV;
                vaesem_vv VaesemVv VaesemVV;
                vaesef_vv VaesefVv VaesefVV;
                vaesdm_vs VaesdmVs VaesdmVS;
                vaesdf_vs VaesdfVs VaesdfVS;
                vaesem_vs VaesemVs VaesemVS;
                vaesef_vs VaesefVs VaesefVS;
                vaesz_vs VaeszVs Vaesz;
                vsm4r_vv Vsm4rVv Vsm4rVV;
                vsm4r_vs Vsm4rVs Vsm4rVS;
            }
            PlainVv {
                vghsh_vv VghshVv Vghsh;
                vsha2ms_vv Vsha2msVv Vsha2ms;
                vsha2ch_vv Vsha2chVv Vsha2ch;
                vsha2cl_vv Vsha2clVv Vsha2cl;
                vsm3me_vv Vsm3meVv Vsm3me;
            }
            PlainVu {
                vaeskf1_vi Vaeskf1Vi Vaeskf1;
                vaeskf2_vi Vaeskf2Vi Vaeskf2;
                vsm4k_vi Vsm4kVi Vsm4k;
                vsm3c_vi Vsm3cVi Vsm3c;
            }
        }
    };
}

pub(crate) use {instructions_of_v, instructions_of_zvk};
